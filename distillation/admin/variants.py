"""Admin of the prompt catalogue with facts of distillation: when a student will cover a variant, examples, detector.

Replaces the page of `generation`, which has no access to runs.
"""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.http import urlencode
from unfold.decorators import action
from unfold.widgets import UnfoldAdminTextInputWidget

from distillation.admin import next_run
from distillation.admin.next_run import Runs
from distillation.detectors import registry as detectors
from distillation.evaluation.seeds import seeds_of
from distillation.models import Example
from distillation.release_comparison import pictures as compared
from distillation.runs import approval
from generation.admin.variant_actions import rows
from generation.admin.variant_forms import form_errors
from generation.admin.variant_page import Further
from generation.admin.variants import PromptVariantAdmin
from generation.catalogue import editing, text_rules
from generation.errors import GenerationError
from generation.models import Embedding, PromptVariant, Release
from generation.releases import coverage
from generation.releases import lifecycle as releases

MAX_EXAMPLES = 24
SHOWN_SEEDS = 2  # of evaluations, beside those of jobs
admin.site.unregister(PromptVariant)
Status = PromptVariant.Status


class PartForm(forms.Form):
    """Tag by which a run is restricted to the chosen prompt variants.

    chosen: their ids; bits: tags that the detector checks, which cannot name a part.
    """

    tag = forms.CharField(
        label="Tag of this part",
        required=False,
        max_length=text_rules.MAX_TAG_CHARACTERS,
        widget=UnfoldAdminTextInputWidget,
        help_text="The chosen prompt variants become active and get this tag. The run is for the variants with it, and "
        "its release becomes a specialist for them. You can remove the tag when the run has ended. Leave it empty for "
        "a run for all active prompt variants, whose release replaces the active student.",
    )

    def __init__(self, *args: Any, chosen: list[int], bits: frozenset[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.chosen, self.bits = chosen, bits

    def clean_tag(self) -> str:
        with form_errors():
            tag = "".join(text_rules.tidy_tags([self.cleaned_data["tag"]]))
        if tag.removeprefix(text_rules.NOT) in self.bits:
            raise forms.ValidationError(
                f"The detector checks the tag “{tag}” in images. Give another one."
            )
        others = PromptVariant.objects.filter(status=Status.ACTIVE, tags__contains=[tag])
        if count := others.exclude(pk__in=self.chosen).count():
            raise forms.ValidationError(
                f"The tag “{tag}” belongs to {editing.named(count)} more. Give another one, or start the run for it."
            )
        return tag


@admin.register(PromptVariant)
class VariantWithRunsAdmin(PromptVariantAdmin):
    actions = (*PromptVariantAdmin.actions, "put_into_run")

    def known_bits(self) -> frozenset[str]:
        detector = detectors.Detector.objects.filter(status=detectors.Status.ACTIVE).first()
        return frozenset(detector.bits if detector else ())

    def waiting(self, request: HttpRequest) -> Runs:
        if not hasattr(request, "retort_runs"):
            request.retort_runs = Runs()  # type: ignore[attr-defined]
        return request.retort_runs  # type: ignore[attr-defined]

    def waits(self, request: HttpRequest, variant: Any) -> str:
        return self.waiting(request).of(variant)

    def next_run(self, request: HttpRequest) -> str:
        runs = self.waiting(request)
        if runs.open is not None:
            return f"The run {runs.open.name} is {runs.open.status}, at {runs.open.percent:.0f} %."
        if runs.next_decision:
            return f"The schedule decides on a run {runs.next_decision}."
        return (
            "No run is scheduled: enable the periodic task consider-redistillation, or start one."
        )

    def after_import(self, request: HttpRequest) -> str:
        student = releases.active(Release.Kind.STUDENT)
        if student is not None and not coverage.beyond(student).exists():
            return ""
        return next_run.offer(request, self.waiting(request))

    def further_pictures(self, request: HttpRequest, variant: Any) -> Further:
        """Return the pictures of evaluations, of the seeds that all evaluations share."""
        if not request.user.has_perm("generation.view_release"):
            return {}
        rows = Embedding.objects.filter(
            variant=variant, revision=variant.revision, data__isnull=False
        )
        hashes = dict(rows.values_list("encoder_fingerprint", "sha256"))
        (seeds,) = seeds_of([variant.slug], each=SHOWN_SEEDS)
        known = Release.objects.filter(encoder_fingerprint__in=hashes)
        found: dict[Release, dict[int, str]] = {}
        for release in known.exclude(status=Release.Status.REJECTED).defer("manifest"):
            embedding = hashes[release.encoder_fingerprint][:24]
            urls = {
                seed: reverse(
                    "admin:generation_release_compared", args=[release.pk, embedding, seed]
                )
                for seed in seeds
                if compared.find(release, embedding, seed) is not None
            }
            if urls:
                found[release] = urls
        return found

    def further_compared(self, variant: PromptVariant) -> list[str]:
        """Return the candidates that wait for a person's decision and cover the variant."""
        row = PromptVariant.objects.filter(pk=variant.pk)
        waiting = (run.release for run in approval.waiting())
        return [
            release.name
            for release in waiting
            if release is not None and row.filter(coverage.condition(release)).exists()
        ]

    def blocks(self, request: HttpRequest, obj: Any) -> list[dict[str, Any]]:
        if not request.user.has_perm("distillation.view_example"):
            return []
        found = Example.objects.filter(source__variants=obj, refusal="").distinct()
        shown = format_html_join(
            "",
            '<a href="{}" class="rt-thumbnail"><img src="{}" alt="Example {}" loading="lazy"></a>',
            (
                (
                    reverse("admin:distillation_example_change", args=[example.pk]),
                    reverse("admin:distillation_example_picture", args=[example.pk, "thumbnail"]),
                    example.pk,
                )
                for example in found[:MAX_EXAMPLES]
            ),
        )
        place = reverse("admin:distillation_imagesource_changelist")
        none = format_html(
            '<p class="rt-quiet">None. Real images come from <a href="{}">image sources</a>.</p>',
            place,
        )
        content = format_html('<div class="rt-thumbnails">{}</div>', shown) if shown else none
        return [{"title": "Examples", "content": content}]

    def has_run_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.has_perm("distillation.add_run"))

    @action(description="Put into a run", icon="cycle", permissions=["change", "run"])
    def put_into_run(self, request: HttpRequest, queryset: QuerySet) -> HttpResponse:
        """Tag and activate the prompt variants, and open the form of a run for this tag."""
        chosen = list(queryset.order_by().values_list("pk", flat=True))
        form = PartForm(
            request.POST if "put" in request.POST else None,
            initial={"tag": f"run-{timezone.localtime():%Y-%m-%d-%H%M}"},
            chosen=chosen,
            bits=self.known_bits(),
        )
        if form.is_valid():
            tag = form.cleaned_data["tag"]
            try:
                with transaction.atomic():
                    change = editing.set_status(rows(queryset), Status.ACTIVE)
                    if tag:
                        editing.change_tags(rows(queryset), add=[tag])
            except GenerationError as error:
                form.add_error("tag", error.detail)
            else:
                said = f"{editing.named(change.count)} became active. " if change.count else ""
                part = f"those with the tag {tag}" if tag else "all active prompt variants"
                messages.info(request, f"{said}The run is for {part}.")
                query = "?" + urlencode({"part": tag}) if tag else ""
                return redirect(reverse("admin:distillation_run_add") + query)
        title = f"A run for {editing.named(len(chosen))}"
        return self.tags_page(
            request, chosen, form, action="put_into_run", title=title, button="Go on to the run"
        )
