"""Presentation of jobs and images to people: words, durations, links."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.db.models import Exists, OuterRef, Prefetch, QuerySet
from django.urls import reverse
from django.utils.functional import cached_property

from generation.api import problems
from generation.images import links
from generation.jobs import lifecycle as jobs
from generation.jobs.estimates import MAX_AHEAD, Estimate
from generation.models import Favourite, Image, Job, Release

WORDS = {
    Job.Status.QUEUED: "Waiting",
    Job.Status.RUNNING: "Generating",
    Job.Status.SUCCEEDED: "Ready",
    Job.Status.FAILED: "Failed",
    Job.Status.CANCELED: "Canceled",
}
# Why a job has no picture and what its owner can do, by error code.
PROBLEMS = {
    "canceled_by_client": "It was stopped. Press Again if you still want the picture.",
    "deadline_before_start": "It did not start within the requested time. Press Again, best when fewer jobs wait.",
    "deadline_while_running": "It took longer than the requested time. Press Again, or choose fewer pictures.",
    "device_unavailable": "The computer that makes pictures has a fault. Tell an administrator, and try again later.",
    "embedding_invalid": "The stored prompt is damaged. An editor can have it encoded again in the catalogue.",
    "embedding_mismatch": "The stored prompt does not fit the model. Press Again; if it fails again, tell an editor.",
    "encoding_failed": "The prompt cannot be encoded. An editor has to change its text in the catalogue.",
    "internal_error": "An unexpected fault occurred. Press Again; if it fails again, tell an administrator.",
    "not_finite": "The model computed no valid picture. Choose another model, and tell an administrator.",
    "out_of_memory": "The picture is too large for the computer that makes it. Choose a smaller size.",
    "release_invalid": "The files of the model are damaged. Choose another model, and tell an administrator.",
    "size_not_supported": "The model does not make pictures of this size. Choose another size.",
    "storage_failed": "The picture could not be saved. Press Again in a few minutes.",
    "worker_lost": "The computer that made the picture stopped. Press Again; if it fails again, tell an administrator.",
}
CACHES = {
    Job.Cache.HIT: "Reused from an earlier job",
    Job.Cache.SHARED: "Shared with an identical job",
}


@dataclass(frozen=True)
class Picture:
    image: Image

    @cached_property
    def address(self) -> str:
        return links.image_path(self.image.id)

    @property
    def download(self) -> str:
        return f"{self.address}&download=true"

    @property
    def file_name(self) -> str:
        return links.file_name(self.image)

    @property
    def is_favourite(self) -> bool:
        """Return whether its owner marked it. False unless it was read by `pictures`."""
        return getattr(self.image, "is_favourite", False)

    @cached_property
    def thumbnail(self) -> str:
        return links.thumbnail_path(self.image.id)

    @property
    def fault(self) -> str:
        """Return the faults that the detector found, or ""."""
        return "" if self.image.is_accepted is not False else ", ".join(self.image.failing)

    @property
    def verdict(self) -> str:
        """Return the detector's verdict, or "" if the picture was not judged."""
        if self.image.is_accepted is None:
            return ""
        return f"rejected: {self.fault}" if self.fault else "accepted"


@dataclass(frozen=True)
class Shown:
    """A job for display. estimate: set for an unfinished job."""

    job: Job
    estimate: Estimate | None = None

    @property
    def text(self) -> str:
        return self.job.embedding.text

    @property
    def word(self) -> str:
        return WORDS[Job.Status(self.job.status)]

    @property
    def is_running(self) -> bool:
        return self.job.status == Job.Status.RUNNING

    @cached_property
    def progress(self) -> int:
        return jobs.progress(self.job)

    @cached_property
    def pictures(self) -> list[Picture]:
        if self.job.status != Job.Status.SUCCEEDED:
            return []
        return [Picture(image) for image in self.job.images.all()]

    @property
    def forming(self) -> Sequence[int]:
        """Return the indices of images that are not ready yet."""
        return () if self.job.is_terminal else range(self.job.n)

    @property
    def announcement(self) -> str:
        """Return the text for screen readers."""
        if self.job.status == Job.Status.SUCCEEDED:
            many = f"{self.job.n} pictures are" if self.job.n > 1 else "The picture is"
            return f"{many} ready: {self.text}"
        return f"{self.word}: {self.text}"

    # --- while it waits and runs ---
    @property
    def place(self) -> str:
        """Return the position in the queue."""
        if self.estimate is None or self.estimate.position == 0:
            return ""
        if self.estimate.position == 1:
            return "next in the queue"
        if self.estimate.position > MAX_AHEAD:
            return f"more than {MAX_AHEAD} jobs ahead"
        return f"number {self.estimate.position} in the queue"

    @property
    def remaining(self) -> str:
        """Return the time left."""
        if self.estimate is None or self.estimate.eta_p50 is None:
            return ""
        return f"about {duration(max(1.0, self.estimate.eta_p50))} left"

    @property
    def is_slow(self) -> bool:
        """Return whether the teacher makes the job."""
        return self.job.release.kind == Release.Kind.TEACHER

    # --- when it has ended ---
    @property
    def took(self) -> str:
        """Return the time from request to finish."""
        if self.job.finished_at is None:
            return ""
        return duration((self.job.finished_at - self.job.created_at).total_seconds())

    @property
    def on_device(self) -> str:
        return duration(self.job.device_seconds)

    @property
    def size(self) -> str:
        return f"{self.job.width}x{self.job.height}"

    @property
    def from_cache(self) -> str:
        return CACHES.get(Job.Cache(self.job.cache), "")

    @property
    def problem(self) -> str:
        """Return why the job has no pictures."""
        return PROBLEMS.get(self.job.error_code, self.job.error_detail)

    @property
    def explanation(self) -> str:
        """Return the URL of the page on its error code."""
        known = problems.find(self.job.error_code)
        return reverse("problem", args=[self.job.error_code]) if known else ""

    @property
    def settings(self) -> dict[str, str]:
        """Return the job's values for the form, without the seed.

        `model` is the release if the request named it and it can still serve, else "teacher" if a teacher made the job,
        else missing. `size` is missing if it is the release's default.
        """
        release = self.job.release
        values = {
            "variant": self.job.variant.slug,
            "n": str(self.job.n),
            "output_format": self.job.output_format,
        }
        if (self.job.width, self.job.height) != release.image_sizes[0]:
            values["size"] = self.size
        if self.job.is_release_named and release.status in (
            *Release.SERVED,
            Release.Status.CANDIDATE,
        ):
            values["model"] = release.name
        elif release.kind == Release.Kind.TEACHER:
            values["model"] = release.kind
        return values

    @property
    def form(self) -> str:
        """Return the URL of the form with the job's values and seed."""
        return f"{reverse('home')}?{urlencode(self.settings | {'seed': str(self.job.seed)})}"


def duration(seconds: float) -> str:
    if seconds < 0.1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"


def pictures(owner: Any) -> QuerySet[Any, Any]:
    """Return all images, annotated with this owner's `is_favourite`."""
    marked = Favourite.objects.filter(owner=owner, image=OuterRef("pk"))
    return Image.objects.annotate(is_favourite=Exists(marked))


def with_job(rows: QuerySet[Any, Any]) -> QuerySet[Any, Any]:
    """Select the images' jobs and related rows for display, without the data of embeddings (100 KB)."""
    related = rows.select_related("job__variant", "job__release", "job__embedding")
    return related.defer("job__embedding__data")


def shown(rows: QuerySet[Job], images: QuerySet[Image] | None = None) -> list[Shown]:
    """Return jobs for display with their images, in two queries. images: those to show, default all."""
    found = Image.objects.all() if images is None else images
    return [Shown(job) for job in rows.prefetch_related(Prefetch("images", found))]
