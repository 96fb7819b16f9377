"""Actions on prompt variants: preview, comparison, encoding, status with undo, tags."""

from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.forms import Form
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.middleware.csrf import get_token
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.html import format_html, format_html_join
from unfold.decorators import action

from generation.admin.actions import selection
from generation.admin.variant_forms import TagsForm, near_tags
from generation.catalogue import editing
from generation.catalogue import variants as catalogue
from generation.catalogue.editing import Change
from generation.errors import GenerationError
from generation.jobs import submission
from generation.jobs.job_request import JobRequest
from generation.models import AuditEntry, PromptVariant, Release

MAX_PREVIEWS = 20  # jobs per action
COMPARED_SEED, COMPARED_IMAGES = 1, 4

Status = PromptVariant.Status


class VariantActionsMixin:
    """Mixin of the ModelAdmin of prompt variants."""

    actions: tuple[str, ...] = ("put_tags", "preview", "encode_again", "activate", "archive")
    object_actions: tuple[str, ...] = ("compare", "preview", "encode_again", "activate", "archive")
    admin_site: Any
    opts: Any
    has_change_permission: Any

    def known_bits(self) -> frozenset[str]:
        """Return the bits that a detector checks in images."""
        return frozenset()

    def get_urls(self) -> list:
        view = self.admin_site.admin_view
        own = [
            path("undo/<int:entry_id>/", view(self.undo_view), name="generation_promptvariant_undo")
        ]
        return [*own, *super().get_urls()]  # type: ignore[misc]

    def action_applies(self, name: str, obj: Any) -> bool:
        is_active = obj.status == Status.ACTIVE
        return {"activate": not is_active, "archive": obj.status != Status.ARCHIVED}.get(
            name, is_active
        )

    def has_preview_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("generation.add_job")

    # --- pictures
    @action(description="Generate a picture", icon="image", permissions=["preview"])
    def preview(self, request: HttpRequest, queryset: QuerySet) -> HttpResponse | None:
        variants = list(queryset[: MAX_PREVIEWS + 1])
        if len(variants) > MAX_PREVIEWS:
            messages.error(
                request, f"Select at most {MAX_PREVIEWS} variants to generate pictures of."
            )
            return None
        started = _submit(request, [JobRequest(variant=variant.slug) for variant in variants])
        if len(started) == 1 and request.user.has_perm("generation.view_job"):
            return redirect("admin:generation_job_change", started[0].pk)
        return None

    @action(description="Compare student and teacher", icon="compare", permissions=["preview"])
    def compare(self, request: HttpRequest, queryset: QuerySet) -> None:
        """Generate the same seeds with the active student and teacher, and `further_compared`."""
        asked = [
            JobRequest(variant=variant.slug, model=model, n=COMPARED_IMAGES, seed=COMPARED_SEED)
            for variant in queryset[:MAX_PREVIEWS]
            for model in (*Release.Kind.values, *self.further_compared(variant))
        ]
        _submit(request, asked)

    def further_compared(self, variant: PromptVariant) -> list[str]:
        """Return the names of further releases that *Compare* generates pictures with."""
        return []

    # --- changes
    @action(description="Encode again", icon="refresh", permissions=["change"])
    def encode_again(self, request: HttpRequest, queryset: QuerySet) -> None:
        marked = catalogue.encode_again(rows(queryset))
        messages.success(
            request,
            f"{marked} failed or damaged embeddings will be encoded again. Intact ones are kept.",
        )

    @action(description="Activate", icon="check_circle", permissions=["change"])
    def activate(self, request: HttpRequest, queryset: QuerySet) -> None:
        self._say(request, editing.set_status(rows(queryset), Status.ACTIVE), "active")

    @action(description="Archive", icon="archive", permissions=["change"])
    def archive(self, request: HttpRequest, queryset: QuerySet) -> None:
        self._say(request, editing.set_status(rows(queryset), Status.ARCHIVED), "archived")

    def _say(self, request: HttpRequest, change: Change, status: str) -> None:
        """Report a change of status, with an Undo button."""
        verb = "is" if change.count == 1 else "are"
        said = f"{editing.named(change.count)} {verb} now {status}."
        if change.entry is None:
            messages.info(request, f"The selected prompt variants were {status} already.")
            return
        undo = format_html(
            '<form method="post" action="{}" class="rt-undo"><input type="hidden" name="csrfmiddlewaretoken" '
            'value="{}"><button type="submit" class="underline">Undo</button></form>',
            reverse("admin:generation_promptvariant_undo", args=[change.entry.pk]),
            get_token(request),
        )
        messages.success(request, format_html("{} {}", said, undo))

    def undo_view(self, request: HttpRequest, entry_id: int) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not self.has_change_permission(request):
            raise PermissionDenied
        try:
            count = editing.undo(get_object_or_404(AuditEntry, pk=entry_id))
            messages.success(request, f"Undone for {editing.named(count)}.")
        except GenerationError as error:
            messages.error(request, error.detail)
        return redirect("admin:generation_promptvariant_changelist")

    @action(description="Add or remove tags", icon="label", permissions=["change"])
    def put_tags(self, request: HttpRequest, queryset: QuerySet) -> HttpResponse | None:
        chosen = list(queryset.order_by().values_list("pk", flat=True))
        form = TagsForm(request.POST if "put" in request.POST else None, bits=self.known_bits())
        if form.is_valid():
            added, removed = form.cleaned_data["add"], form.cleaned_data["remove"]
            try:
                change = editing.change_tags(rows(queryset), add=added, remove=removed)
            except GenerationError as error:
                form.add_error("add", error.detail)
            else:
                messages.success(request, f"The tags of {editing.named(change.count)} changed.")
                for sentence in near_tags(added):
                    messages.warning(request, sentence)
                return None
        title = f"Tags of {editing.named(len(chosen))}"
        return self.tags_page(
            request, chosen, form, action="put_tags", title=title, button="Change the tags"
        )

    def tags_page(
        self,
        request: HttpRequest,
        chosen: list[int],
        form: Form,
        *,
        action: str,
        title: str,
        button: str,
    ) -> HttpResponse:
        """Return the page of a form that the action handles, for the variants with these ids."""
        context = {
            **self.admin_site.each_context(request),
            "title": title,
            "opts": self.opts,
            "form": form,
            "action": action,
            "button": button,
            **selection(request, chosen),
        }
        return TemplateResponse(request, "generation/admin/put_tags.html", context)


def rows(queryset: QuerySet) -> QuerySet[PromptVariant]:
    """Return the same rows without the annotations of the list's query."""
    ids = list(queryset.order_by().values_list("pk", flat=True))
    return PromptVariant.objects.filter(pk__in=ids)


def _submit(request: HttpRequest, asked: list[JobRequest]) -> list[Any]:
    """Submit jobs of the user and return them. Report refused ones with the reason."""
    started = []
    for one in asked:
        try:
            started.append(submission.submit(request.user, one))
        except GenerationError as error:
            messages.error(request, error.detail)
    links = format_html_join(
        ", ",
        '<a href="{}" class="underline">{} by {}</a>',
        (
            (reverse("admin:generation_job_change", args=[job.pk]), job.variant.slug, job.release)
            for job in started
        ),
    )
    if started:
        messages.success(request, format_html("Pictures requested: {}.", links))
    return started
