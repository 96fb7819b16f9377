"""Representation of a job as a Replicate prediction, for responses and webhooks."""

import re
from datetime import datetime
from typing import Any
from urllib.parse import urljoin
from uuid import UUID

from django.db.models import Q
from django.urls import reverse
from django.utils.crypto import salted_hmac

from generation.errors import DEADLINE_BEFORE_START
from generation.images import links
from generation.infra import notifications
from generation.models import ERASED, Job, Release
from generation.realtime.formats import progress_bar

OWNER = "retort"  # of every model, in names of the form owner/name
START = "start"  # the event whose payload shows the job at its start

# Replicate's six statuses; a canceled job may also be "aborted".
STATUSES = {
    Job.Status.QUEUED: "starting",
    Job.Status.RUNNING: "processing",
    Job.Status.SUCCEEDED: "succeeded",
    Job.Status.FAILED: "failed",
    Job.Status.CANCELED: "canceled",
}
ABORTED = "aborted"
_IDENTIFIER = re.compile(r"[A-Za-z0-9_-]{1,64}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
FORMATS = {"webp": "webp", "png": "png", "jpeg": "jpg"}  # Retort's name: Replicate's


# Jobs with the columns that a rendering needs, without the data of embeddings (100 KB).
ROWS = Job.objects.select_related("variant", "release", "embedding").only(
    *(field.attname for field in Job._meta.concrete_fields),
    "variant__slug",
    "release__kind",
    "release__manifest_sha256",
    "release__name",
    "embedding__text",
)


def as_prediction(job: Job, *, base_url: str, event: str | None = None) -> dict[str, Any]:
    """Return the prediction as JSON data. base_url: scheme and host of the links.

    event: "start" = show the job at its start, independent of its current row.
    """
    has_ended = job.is_terminal and event != START
    return {
        "id": identifier(job),
        "job": str(job.id),
        "model": model_of(job.release),
        "version": job.release.manifest_sha256,
        "status": STATUSES[Job.Status.RUNNING] if event == START else status_of(job),
        "input": _input(job),
        "output": _output(job, base_url) if has_ended else None,
        "error": (job.error_detail or None) if has_ended else None,
        "error_code": (job.error_code or None) if has_ended else None,
        "logs": _logs(job, 0 if event == START else _progress(job)),
        "metrics": _metrics(job) if has_ended else {},
        "data_removed": job.purged_at is not None,
        "created_at": _time(job.created_at),
        "started_at": _time(job.started_at),
        "completed_at": _time(job.finished_at) if has_ended else None,
        "urls": _urls(job, base_url),
        "phase": Job.Status.RUNNING.value if event == START else job.status,
        "variant": job.variant.slug,
        "match": match_of(job),
        "attempt": job.attempt,
        "cache": job.cache,
    }


def identifier(job: Job) -> str:
    """Return the id for the client: the one it chose, otherwise the job's."""
    return job.external_id or str(job.id)


def is_identifier(name: str) -> bool:
    """Return whether a client may choose this id."""
    return _IDENTIFIER.fullmatch(name) is not None


def erased(name: str) -> str:
    """Return the digest that replaces a client's id when its job is purged."""
    digest = salted_hmac("erased id", name, algorithm="sha256").hexdigest()
    return (ERASED + digest)[:64]


def called(name: str) -> Q:
    """Return a filter for jobs with this external id or own id; an owner has at most one."""
    chosen = Q(external_id__in=(name, erased(name)))
    return chosen | Q(id=UUID(name)) if _UUID.fullmatch(name) else chosen


def status_of(job: Job) -> str:
    if job.status == Job.Status.CANCELED and job.error_code == DEADLINE_BEFORE_START:
        return ABORTED
    return STATUSES[Job.Status(job.status)]


def model_of(release: Release) -> str:
    """Return the model as owner/name. A model is a kind of release; its versions are the releases."""
    return f"{OWNER}/{release.kind}"


def _input(job: Job) -> dict[str, Any]:
    """Return the input that gives the same images again, including automatically chosen values."""
    return {
        "prompt": job.asked_text or job.embedding.text,
        "seed": job.seed,
        "num_outputs": job.n,
        "width": job.width,
        "height": job.height,
        "output_format": FORMATS[job.output_format],
        "priority": job.priority,
        "metadata": job.has_metadata,
    }


def match_of(job: Job) -> dict[str, Any] | None:
    """Return the requested text and its score if it was matched to the variant."""
    if job.match_score is None:
        return None
    return {"asked": job.asked_text, "score": job.match_score}


def _output(job: Job, base_url: str) -> list[str] | None:
    if job.status != Job.Status.SUCCEEDED or job.purged_at is not None:
        return None
    return [urljoin(base_url, links.image_path(image.id)) for image in job.images.all()]


def _progress(job: Job) -> int:
    """Return the progress in percent."""
    if job.status == Job.Status.RUNNING:
        return notifications.progress(job.id)
    return 100 if job.status == Job.Status.SUCCEEDED else 0


def _logs(job: Job, percent: int) -> str:
    if job.started_at is None:
        return ""
    return progress_bar(percent, job.num_inference_steps)


def _metrics(job: Job) -> dict[str, float]:
    """Return times in seconds. predict_time is the last attempt's, 0 for cached images."""
    was_made = job.cache == Job.Cache.MISS
    return {
        "predict_time": (_seconds(job.started_at, job.finished_at) if was_made else 0.0),
        "total_time": _seconds(job.created_at, job.finished_at),
        "queue_time": _seconds(job.created_at, job.started_at or job.finished_at),
        "device_time": round(job.device_seconds, 4),
        "encode_time": round(job.encode_seconds, 4),
    }


def _urls(job: Job, base_url: str) -> dict[str, str]:
    name = identifier(job)
    return {
        "get": urljoin(base_url, reverse("prediction", args=[name])),
        "cancel": urljoin(base_url, reverse("prediction-cancel", args=[name])),
        "stream": urljoin(base_url, reverse("prediction-stream", args=[name])),
    }


def _time(at: datetime | None) -> str | None:
    return at.isoformat().replace("+00:00", "Z") if at else None


def _seconds(start: datetime | None, end: datetime | None) -> float:
    return round((end - start).total_seconds(), 4) if start and end else 0.0
