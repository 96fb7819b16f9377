"""Admin of the prompt catalogue with facts of distillation: when a student will cover a variant, examples, detector.

Replaces the page of `generation`, which has no access to runs.
"""

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from unfold.decorators import action

from distillation.admin import next_run
from distillation.admin.next_run import Runs
from distillation.detectors import registry as detectors
from distillation.evaluation.seeds import seeds_of
from distillation.models import Example
from distillation.release_comparison import pictures as compared
from distillation.runs import approval
from generation.admin.variant_actions import rows
from generation.admin.variant_page import Further
from generation.admin.variants import PromptVariantAdmin
from generation.catalogue import editing
from generation.models import Embedding, PromptVariant, Release
from generation.releases import coverage
from generation.releases import lifecycle as releases

MAX_EXAMPLES = 24
SHOWN_SEEDS = 2  # of evaluations, beside those of jobs
admin.site.unregister(PromptVariant)


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
        """Activate the prompt variants and open the form of a run, which covers all active variants."""
        change = editing.set_status(rows(queryset), PromptVariant.Status.ACTIVE)
        said = f"{editing.named(change.count)} became active. " if change.count else ""
        messages.info(request, f"{said}The run is for all active prompt variants.")
        return redirect("admin:distillation_run_add")
