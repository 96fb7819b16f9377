"""Admin of jobs: progress, attempts, images; retry, cancel, delete images."""

from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.postgres.expressions import ArraySubquery
from django.db.models import Exists, OuterRef, QuerySet
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404
from django.template.defaultfilters import pluralize
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import (
    ChoicesDropdownFilter,
    DropdownFilter,
    RangeDateTimeFilter,
    RelatedDropdownFilter,
)
from unfold.decorators import action, display

from generation.admin import pictures
from generation.admin.actions import ObjectActionsMixin, ReadOnlyMixin
from generation.api import problems
from generation.engine.errors import EmbeddingInvalid
from generation.images import links
from generation.jobs import lifecycle as jobs
from generation.jobs import retention, retrying
from generation.models import Image, Job

LIST_PICTURES = 3


def seconds_between(start: Any, end: Any) -> str:
    if start is None:
        return "–"
    seconds = ((end or timezone.now()) - start).total_seconds()
    return f"{seconds:.2f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


class FlaggedFilter(DropdownFilter):
    title = "images"
    parameter_name = "images"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("flagged", "rejected by the detector"), ("accepted", "accepted by the detector")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        if self.value() not in ("flagged", "accepted"):
            return queryset
        judged = Image.objects.filter(job=OuterRef("pk"), is_accepted=self.value() == "accepted")
        return queryset.filter(Exists(judged))


class ErrorFilter(DropdownFilter):
    title = "error"
    parameter_name = "error"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(one.code, one.code) for one in problems.known() if one.is_of_jobs]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        return queryset.filter(error_code=self.value()) if self.value() else queryset


@admin.register(Job)
class JobAdmin(ReadOnlyMixin, ObjectActionsMixin, ModelAdmin):
    when_empty = "Jobs come from the page and the API."
    list_display = ("what", "images", "status_badge", "release", "owner", "took", "created")
    list_filter = (
        ("status", ChoicesDropdownFilter),
        ("cache", ChoicesDropdownFilter),
        FlaggedFilter,
        ("via", ChoicesDropdownFilter),
        ("owner", RelatedDropdownFilter),
        ("release", RelatedDropdownFilter),
        ErrorFilter,
        ("created_at", RangeDateTimeFilter),
        ("finished_at", RangeDateTimeFilter),
    )
    list_filter_submit = True
    list_per_page = 50
    list_select_related = ("variant", "release", "owner", "embedding")
    show_full_result_count = False
    search_fields = ("id__startswith", "variant__slug", "embedding__text", "owner__username")
    search_help_text = "Beginning of the id, variant, text or owner"
    actions = ("retry", "cancel", "delete_images")
    object_actions = ("retry", "cancel", "delete_images")
    change_form_outer_before_template = "generation/admin/job.html"
    fieldsets = (
        (
            "Request",
            {
                "fields": (
                    ("variant", "owner"),
                    ("asked_text", "match_score"),
                    ("release", "output_format"),
                    ("count", "seed"),
                    ("size", "num_inference_steps"),
                    ("priority", "max_tries", "has_metadata"),
                    "key",
                )
            },
        ),
        (
            "Result",
            {
                "fields": (
                    ("cache", "device_seconds", "encode_seconds"),
                    ("worker_name", "lease_expires_at"),
                    ("error_code", "not_before"),
                    ("created_at", "started_at"),
                    ("finished_at", "purged_at"),
                )
            },
        ),
    )
    readonly_fields = ("count", "size")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Job]:
        ids = Image.objects.filter(job=OuterRef("pk")).order_by("index").values("pk")
        rows = super().get_queryset(request).defer("embedding__data", "release__manifest")
        return rows.annotate(image_ids=ArraySubquery(ids))

    def get_urls(self) -> list:
        # cacheable: by default the admin forbids caching, and a list would reload its thumbnails each time.
        image = "image/<uuid:image_id>/<str:size>/"
        return [
            self.page(image, self.image_view, "generation_job_image", cacheable=True),
            self.page("<uuid:job_id>/now/", self.now_view, "generation_job_now"),
            *super().get_urls(),
        ]

    def image_view(self, request: HttpRequest, image_id: UUID, size: str) -> HttpResponse:
        return pictures.respond(request, image_id, size)

    def now_view(self, request: HttpRequest, job_id: UUID) -> HttpResponse:
        """Return the job's state as a fragment, which its page polls."""
        return JsonResponse(self._now(get_object_or_404(Job, pk=job_id)))

    def _now(self, job: Job) -> dict[str, Any]:
        return {
            "status": job.status,
            "percent": jobs.progress(job),
            "attempt": job.attempt,
            "is_terminal": job.is_terminal,
        }

    def panel(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        attempts = [
            {
                "row": attempt,
                "badge": pictures.badge(attempt.outcome),
                "started": pictures.when(attempt.started_at),
                "took": seconds_between(attempt.started_at, attempt.ended_at),
            }
            for attempt in obj.attempts.all()
        ]
        images = [
            {
                "row": image,
                "thumbnail": pictures.link(image.pk, "thumbnail"),
                "full": pictures.link(image.pk, "full"),
                "file_name": links.file_name(image),
            }
            for image in obj.images.select_related("job__variant")
        ]
        return {
            "job": obj,
            "now": self._now(obj) | {"url": reverse("admin:generation_job_now", args=[obj.pk])},
            "badge": pictures.badge(obj.status),
            "waited": seconds_between(obj.created_at, obj.started_at or obj.finished_at),
            "took": seconds_between(obj.created_at, obj.finished_at),
            "attempts": attempts,
            "images": images,
            "cure_url": reverse("admin:generation_promptvariant_change", args=[obj.variant_id])
            if obj.error_code == EmbeddingInvalid.code and obj.variant_id
            else "",
        }

    # --- columns
    @display(description="job", ordering="variant__slug")
    def what(self, job: Job) -> str:
        return pictures.wording(job.embedding.text, str(job.pk)[:8])

    @display(description="images")
    def images(self, job: Any) -> str:
        change = reverse("admin:generation_job_change", args=[job.pk])
        return pictures.row(job.image_ids[:LIST_PICTURES], to=change)

    @display(description="status", ordering="status")
    def status_badge(self, job: Job) -> str:
        if job.purged_at is not None:
            return pictures.badge("images deleted", f"It was {job.status}.")
        label = pictures.badge(job.status)
        if not job.error_detail:
            return label
        return format_html(
            '<span class="rt-reason">{}<span>{}</span></span>', label, job.error_detail
        )

    @display(description="duration")
    def took(self, job: Job) -> str:
        return pictures.nowrap(seconds_between(job.created_at, job.finished_at))

    created = pictures.when_column("created_at", "created")

    @display(description="images")
    def count(self, job: Job) -> int:
        return job.n

    @display(description="size")
    def size(self, job: Job) -> str:
        return f"{job.width} × {job.height}"

    # --- actions
    def action_applies(self, name: str, obj: Any) -> bool:
        if obj.purged_at is not None:
            return False
        if name == "delete_images":
            return obj.is_terminal
        if name == "cancel":
            return not obj.is_terminal
        return obj.status in (Job.Status.FAILED, Job.Status.CANCELED)

    def confirmation(self, name: str, obj: Any) -> str:
        if name == "delete_images":
            return "The images are deleted permanently, and the owner can no longer see the job."
        return ""

    @action(description="Retry", icon="replay", permissions=["change"])
    def retry(self, request: HttpRequest, queryset: QuerySet) -> None:
        chosen = list(queryset.order_by("finished_at").values_list("pk", flat=True))
        moved = retrying.retry_these(chosen)
        LogEntry.objects.log_actions(
            request.user.pk,  # type: ignore[arg-type]
            Job.objects.filter(pk__in=moved),
            CHANGE,
            change_message="Queued again in the admin.",
        )
        others = "The others succeeded (use another seed), have not ended, or were deleted."
        self._report(request, len(moved), len(chosen), "queued again", others)

    @action(description="Cancel", icon="cancel", permissions=["change"])
    def cancel(self, request: HttpRequest, queryset: QuerySet) -> None:
        chosen = list(queryset.order_by().values_list("pk", "finished_at"))
        done = 0
        for job_id in [pk for pk, finished_at in chosen if finished_at is None]:
            job = jobs.cancel(job_id)
            if job.status == Job.Status.CANCELED:
                done += 1
                self.log_change(request, job, "Canceled in the admin.")
        self._report(request, done, len(chosen), "canceled", "The others had ended.")

    @action(description="Delete images", icon="delete_forever", permissions=["change"])
    def delete_images(self, request: HttpRequest, queryset: QuerySet) -> None:
        chosen = list(queryset.order_by().filter(purged_at__isnull=True))
        for job in chosen:
            retention.purge(job.pk)
            self.log_change(request, job, "Images deleted in the admin.")
        noun = "job" if len(chosen) == 1 else "jobs"
        messages.success(request, f"The images of {len(chosen)} {noun} were deleted.")

    def _report(self, request: HttpRequest, done: int, of: int, what: str, others: str) -> None:
        """Say how many of the chosen jobs were changed; others: why not all."""
        said = f"{done} of {of} jobs {pluralize(done, 'is,are')} {what}."
        if done < of:
            messages.warning(request, f"{said} {others}")
        else:
            messages.success(request, said)
