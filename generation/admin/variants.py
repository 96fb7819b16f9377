"""Admin of the prompt catalogue: edit, import, export, encode again, preview."""

from typing import Any

from django.contrib import admin, messages
from django.contrib.postgres.expressions import ArraySubquery
from django.db.models import OuterRef, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from import_export.admin import ImportExportModelAdmin
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.contrib.import_export.forms import ExportForm
from unfold.decorators import action, display

from generation.admin import pictures
from generation.admin.actions import ObjectActionsMixin
from generation.admin.variant_forms import (
    EmbeddingFilter,
    TagFilter,
    UnknownWordsFilter,
    VariantConfirmImportForm,
    VariantForm,
    VariantImportForm,
)
from generation.admin.variant_import import PreviewResource
from generation.catalogue import editing, unknown_words
from generation.catalogue import variants as catalogue
from generation.catalogue.import_export import CatalogueCSV, CatalogueJSON
from generation.catalogue.unknown_words import Vocabulary
from generation.catalogue.variants import EmbeddingState
from generation.errors import GenerationError
from generation.jobs import submission
from generation.jobs.job_request import JobRequest
from generation.models import Embedding, Image, PromptVariant
from generation.releases import lifecycle as releases

MAX_PREVIEWS = 20  # jobs per action
LIST_PICTURES, PAGE_PICTURES = 3, 12

Status = PromptVariant.Status


# --- the pages ------------------------------------------------------------------------------------
@admin.register(PromptVariant)
class PromptVariantAdmin(ObjectActionsMixin, ModelAdmin, ImportExportModelAdmin):
    form = VariantForm
    resource_classes = [PreviewResource]
    import_template_name = "generation/admin/import.html"
    import_form_class = VariantImportForm
    confirm_form_class = VariantConfirmImportForm
    export_form_class = ExportForm
    formats = [CatalogueCSV, CatalogueJSON]

    list_display = ("wording", "latest", "tag_list", "status_badge", "embedding_badge", "updated")
    list_filter = (
        ("status", ChoicesDropdownFilter),
        EmbeddingFilter,
        UnknownWordsFilter,
        TagFilter,
    )
    list_filter_submit = True
    list_per_page = 50
    show_full_result_count = False
    search_fields = ("slug", "text", "normalized_text", "notes", "tags")
    search_help_text = "Slug, text, tag or notes"
    actions = ("encode_again", "preview", "activate", "archive")
    object_actions = ("preview", "encode_again", "activate", "archive")
    readonly_fields = (
        "made_of_it",
        "unknown",
        "embeddings",
        "revision",
        "created_at",
        "updated_at",
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[PromptVariant]:
        latest = (
            Image.objects.filter(job__variant=OuterRef("pk"))
            .order_by("-job__created_at", "index")
            .values("pk")[:PAGE_PICTURES]
        )
        rows = catalogue.with_states(super().get_queryset(request))
        return rows.annotate(latest_images=ArraySubquery(latest))

    def get_fieldsets(self, request: HttpRequest, obj: PromptVariant | None = None) -> Any:
        wording = ["text", "slug", "tags", "status", "max_tries", "notes"]
        if obj is None:
            return [(None, {"fields": wording})]
        if self.has_change_permission(request, obj):
            wording.insert(1, "new_revision")
        facts = ["made_of_it", "unknown", "embeddings", "revision", "created_at", "updated_at"]
        return [(None, {"fields": wording}), ("Images and embeddings", {"fields": facts})]

    def get_form(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> Any:
        # `new_revision` is a field of the form only; the admin would look for it on the model.
        kwargs["fields"] = [*VariantForm.Meta.fields]
        if not self.has_change_permission(request, obj) and obj is not None:
            kwargs["fields"] = []
        return super().get_form(request, obj, **kwargs)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        catalogue.save(obj, new_revision=form.cleaned_data.get("new_revision", False))
        if unknown := Vocabulary().unknown(obj.text):
            messages.warning(request, unknown_words.sentence(unknown))

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        found = super().get_changelist_instance(request)
        vocabulary = Vocabulary()
        for variant in found.result_list:
            variant.unknown_words = vocabulary.unknown(variant.text)
        return found

    # --- columns and fields
    @display(description="prompt variant", ordering="slug")
    def wording(self, variant: PromptVariant) -> str:
        return pictures.wording(variant.text, variant.slug)

    @display(description="latest images")
    def latest(self, variant: Any) -> str:
        change = reverse("admin:generation_promptvariant_change", args=[variant.pk])
        return pictures.row(variant.latest_images[:LIST_PICTURES], to=change)

    @display(description="tags")
    def tag_list(self, variant: PromptVariant) -> str:
        return ", ".join(variant.tags) or "–"

    @display(description="status", ordering="status")
    def status_badge(self, variant: PromptVariant) -> str:
        return pictures.badge(variant.status)

    @display(description="embedding", ordering="embedding_state")
    def embedding_badge(self, variant: Any) -> str:
        if variant.embedding_state is None:
            return "–"
        state, reason = variant.embedding_state, variant.embedding_reason or ""
        if not reason and variant.unknown_words:
            state, reason = "unknown words", unknown_words.sentence(variant.unknown_words)
        label = pictures.badge(state, reason)
        if not reason:
            return label
        return format_html('<span class="rt-reason">{}<span>{}</span></span>', label, reason)

    updated = pictures.when_column("updated_at", "updated")

    @display(description="latest images")
    def made_of_it(self, variant: Any) -> str:
        return pictures.row(variant.latest_images)

    @display(description="unknown words")
    def unknown(self, variant: PromptVariant) -> str:
        found = Vocabulary().unknown(variant.text)
        return unknown_words.sentence(found) if found else "–"

    @display(description="embeddings")
    def embeddings(self, variant: PromptVariant) -> str:
        rows = Embedding.objects.filter(variant=variant).defer("data").order_by("-encoded_at")
        in_use = dict.fromkeys(catalogue.fingerprints(), "") | {
            release.encoder_fingerprint: f" (of {release.name})"
            for release in releases.encoders_in_use()
        }
        lines = [
            (
                self._state_of(row, variant, row.encoder_fingerprint in in_use),
                f"revision {row.revision}, encoder {row.encoder_fingerprint[:12]}"
                + in_use.get(row.encoder_fingerprint, " (not in use)"),
                row.error or f"{' × '.join(map(str, row.shape))} {row.dtype}",
                row.encoded_at.strftime("%Y-%m-%d %H:%M"),
            )
            for row in rows[:20]
        ]
        return (
            format_html_join(
                "",
                '<div class="rt-line">{} <span>{}</span><span>{}</span><span>{}</span></div>',
                lines,
            )
            or "–"
        )

    def _state_of(self, row: Embedding, variant: PromptVariant, is_in_use: bool) -> str:
        if row.revision != variant.revision or not is_in_use:
            return pictures.badge(EmbeddingState.STALE.value)
        if not row.error:
            return pictures.badge(EmbeddingState.ENCODED.value)
        state = (
            EmbeddingState.PENDING if row.error == catalogue.ENCODE_AGAIN else EmbeddingState.FAILED
        )
        return pictures.badge(state.value)

    # --- actions
    def action_applies(self, name: str, obj: Any) -> bool:
        is_active = obj.status == Status.ACTIVE
        return {"activate": not is_active, "archive": obj.status != Status.ARCHIVED}.get(
            name, is_active
        )

    def has_preview_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("generation.add_job")

    @action(description="Generate a preview", icon="image", permissions=["preview"])
    def preview(self, request: HttpRequest, queryset: QuerySet) -> HttpResponse | None:
        variants = list(queryset[: MAX_PREVIEWS + 1])
        if len(variants) > MAX_PREVIEWS:
            messages.error(request, f"Select at most {MAX_PREVIEWS} variants for a preview.")
            return None
        started = []
        for variant in variants:
            try:
                started.append(submission.submit(request.user, JobRequest(variant=variant.slug)))
            except GenerationError as error:
                messages.error(request, error.detail)
        links = format_html_join(
            ", ",
            '<a href="{}" class="underline">{}</a>',
            (
                (reverse("admin:generation_job_change", args=[job.pk]), job.variant.slug)
                for job in started
            ),
        )
        if started:
            messages.success(request, format_html("Previews requested: {}.", links))
        if len(started) == 1 and request.user.has_perm("generation.view_job"):
            return redirect("admin:generation_job_change", started[0].pk)
        return None

    @action(description="Encode again", icon="refresh", permissions=["change"])
    def encode_again(self, request: HttpRequest, queryset: QuerySet) -> None:
        marked = catalogue.encode_again(PromptVariant.objects.filter(pk__in=list(_ids(queryset))))
        messages.success(
            request,
            f"{marked} failed or damaged embeddings will be encoded again. Intact ones are kept.",
        )

    @action(description="Activate", icon="check_circle", permissions=["change"])
    def activate(self, request: HttpRequest, queryset: QuerySet) -> None:
        self._set_status(request, queryset, Status.ACTIVE)

    @action(description="Archive", icon="archive", permissions=["change"])
    def archive(self, request: HttpRequest, queryset: QuerySet) -> None:
        self._set_status(request, queryset, Status.ARCHIVED)

    def _set_status(self, request: HttpRequest, queryset: QuerySet, status: Status) -> None:
        rows = PromptVariant.objects.filter(pk__in=list(_ids(queryset)))
        changed = editing.set_status(rows, status).count
        messages.success(request, f"{changed} prompt variants are now {status.label.lower()}.")

    # --- import and export
    def has_import_permission(self, request: HttpRequest) -> bool:
        return self.has_add_permission(request) and self.has_change_permission(request)

    def has_export_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def get_import_resource_kwargs(self, request: HttpRequest, **kwargs: Any) -> dict[str, Any]:
        data = getattr(kwargs.get("form"), "cleaned_data", {})
        return {"new_revisions": bool(data.get("new_revisions"))}

    def get_import_data_kwargs(self, **kwargs: Any) -> dict[str, Any]:
        return {"rollback_on_validation_errors": True}

    def add_data_read_fail_error_to_form(self, form: Any, e: Exception) -> None:
        form.add_error("import_file", f"The file cannot be read: {e}")

    def get_confirm_form_initial(self, request: HttpRequest, import_form: Any) -> dict[str, Any]:
        initial = super().get_confirm_form_initial(request, import_form)
        if import_form:
            initial["new_revisions"] = import_form.cleaned_data["new_revisions"]
        return initial

    def get_export_resource_kwargs(self, request: HttpRequest, **kwargs: Any) -> dict[str, Any]:
        return {}


def _ids(queryset: QuerySet) -> Any:
    return queryset.order_by().values_list("pk", flat=True)
