"""Serializers of jobs. The rules are in `generation.jobs.submission`."""

from datetime import datetime
from typing import Any

from django.conf import settings
from rest_framework import serializers

from generation.api.serializers.images import ImageSerializer
from generation.api.serializers.shapes import PageQuery, Strict, WholeNumber, url_of
from generation.jobs import lifecycle as jobs
from generation.jobs import reading
from generation.jobs.estimates import MAX_AHEAD, Estimate
from generation.models import Delivery, Job
from generation.webhooks.endpoints import MAX_URL
from generation.webhooks.predictions import match_of

MAX_WAIT_SECONDS = 60


class ImageParameters(Strict):
    """Parameters that all formats of a request for images share."""

    match = serializers.BooleanField(
        help_text="false: accept only texts in the catalogue; default true."
    )
    seed = WholeNumber(
        0,
        2**32 - 1,
        help_text="Seed of the first image; each further image has the next seed.",
    )
    size = serializers.RegexField(
        r"^\d{1,5}x\d{1,5}$", help_text='"WIDTHxHEIGHT", one of the sizes of the release.'
    )
    priority = WholeNumber(
        -100,
        100,
        help_text="Jobs with a higher priority run first among your own; default 0.",
    )
    metadata = serializers.BooleanField(
        help_text="Whether files contain metadata on how they were made; by default only pixels."
    )


class JobRequestSerializer(ImageParameters):
    """Exactly one of variant and text is required. Without a seed a random one is used; the job states it."""

    variant = serializers.CharField(help_text="Slug of a prompt variant.")
    text = serializers.CharField(
        help_text="Text of a prompt variant; case and spaces do not matter. A text that is not in the catalogue is "
        "matched to the most similar variant if it is similar enough; the job then has match."
    )
    n = WholeNumber(1, settings.MAX_IMAGES_PER_JOB, help_text="Number of images; default 1.")
    output_format = serializers.ChoiceField(
        Job.Format.choices, help_text="File format; default webp."
    )
    model = serializers.CharField(
        help_text="student, teacher or the name of a release. Default: the best student in service for the variant; "
        "the teacher where the settings UNCOVERED and QUALITY_FLOOR require it."
    )
    webhook = serializers.CharField(
        max_length=MAX_URL, help_text="https:// URL that receives signed webhooks about the job."
    )
    webhook_events = serializers.ListField(
        child=serializers.ChoiceField(Delivery.Event.choices),
        allow_empty=False,
        max_length=len(Delivery.Event.values),
        help_text="Events to send; default: all. start: the job started; output: its images are ready; "
        "completed: it finished, with any outcome.",
    )


class JobQuery(PageQuery):
    status = serializers.ChoiceField(Job.Status.choices)
    variant = serializers.CharField(help_text="Slug.")
    model = serializers.CharField(help_text="Name of a release.")
    via = serializers.ChoiceField(
        Job.Via.choices, help_text="Interface through which the job was created."
    )
    created_after = serializers.DateTimeField(help_text="ISO 8601.")
    created_before = serializers.DateTimeField(help_text="ISO 8601.")


class WaitQuery(Strict):
    wait = serializers.FloatField(
        default=0,
        min_value=0,
        max_value=MAX_WAIT_SECONDS,
        help_text="Seconds to wait for the job to finish before answering.",
    )


class JobErrorSerializer(serializers.Serializer[Any]):
    code = serializers.CharField()
    detail = serializers.CharField()


class JobMetricsSerializer(serializers.Serializer[Any]):
    queue_seconds = serializers.FloatField(
        allow_null=True, help_text="From creation to the start of the last attempt."
    )
    device_seconds = serializers.FloatField()
    encode_seconds = serializers.FloatField(help_text="Time to encode and store its files.")
    total_seconds = serializers.FloatField(allow_null=True, help_text="From creation to finish.")


class QueueSerializer(serializers.Serializer[Any]):
    position = serializers.IntegerField(
        help_text=f"1: next, 0: running; {MAX_AHEAD + 1}: this or later."
    )
    eta_seconds_p50 = serializers.FloatField(
        allow_null=True, help_text="Estimated time until it finishes; null: unknown."
    )
    eta_seconds_p90 = serializers.FloatField(allow_null=True)
    feasible = serializers.BooleanField(help_text="Whether a live worker serves the release.")
    reason = serializers.CharField(
        allow_blank=True,
        help_text="Why it is not feasible or takes longer, for example because a worker must load the release.",
    )


class MatchSerializer(serializers.Serializer[Any]):
    asked = serializers.CharField(help_text="Text of the request.")
    score = serializers.FloatField(
        help_text="Cosine similarity of the variant's text to the request's; 1: equal."
    )


class JobURLsSerializer(serializers.Serializer[Any]):
    self = serializers.URLField()
    events = serializers.URLField()
    cancel = serializers.URLField()


class JobSerializer(serializers.Serializer[Job]):
    id = serializers.UUIDField()
    status = serializers.ChoiceField(Job.Status.choices)
    variant = serializers.CharField(help_text="Slug.")
    text = serializers.CharField(help_text="Text that the images are generated from.")
    match = MatchSerializer(
        allow_null=True, help_text="Set if the text was matched to the most similar variant."
    )
    model = serializers.CharField(help_text="Name of the release.")
    n = serializers.IntegerField(help_text="Number of images.")
    seed = serializers.IntegerField(help_text="Seed of the first image; further images count up.")
    size = serializers.CharField(help_text="WIDTHxHEIGHT")
    num_inference_steps = serializers.IntegerField()
    output_format = serializers.ChoiceField(Job.Format.choices)
    priority = serializers.IntegerField()
    metadata = serializers.BooleanField(help_text="Whether files say how they were made.")
    max_tries = serializers.IntegerField(
        help_text="0: images are not checked; 1: checked; N: failing images are generated again, up to N times in all."
    )
    cache = serializers.ChoiceField(Job.Cache.choices)
    attempt = serializers.IntegerField(help_text="Number of attempts so far.")
    progress = serializers.IntegerField(help_text="Percent.")
    queue = QueueSerializer(
        allow_null=True,
        help_text="Only for an unfinished job, and not in lists.",
    )
    error = JobErrorSerializer(allow_null=True, help_text="Error of a failed or canceled job.")
    images = ImageSerializer(many=True, help_text="Images of a succeeded job.")
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True, help_text="Start of the last attempt.")
    finished_at = serializers.DateTimeField(allow_null=True)
    metrics = JobMetricsSerializer()
    urls = JobURLsSerializer()

    def to_representation(self, instance: Job) -> dict[str, Any]:
        return {
            "id": str(instance.id),
            "status": instance.status,
            "variant": instance.variant.slug,
            "text": instance.embedding.text,
            "match": match_of(instance),
            "model": instance.release.name,
            "n": instance.n,
            "seed": instance.seed,
            "size": f"{instance.width}x{instance.height}",
            "num_inference_steps": instance.num_inference_steps,
            "output_format": instance.output_format,
            "priority": instance.priority,
            "metadata": instance.has_metadata,
            "max_tries": instance.max_tries,
            "cache": instance.cache,
            "attempt": instance.attempt,
            "progress": jobs.progress(instance),
            "queue": queue_of(self.context.get("estimate")),
            "error": _error(instance),
            "images": self._images(instance),
            "created_at": instance.created_at,
            "started_at": instance.started_at,
            "finished_at": instance.finished_at,
            "metrics": {
                "queue_seconds": _seconds(instance.created_at, instance.started_at),
                "device_seconds": round(instance.device_seconds, 4),
                "encode_seconds": round(instance.encode_seconds, 4),
                "total_seconds": _seconds(instance.created_at, instance.finished_at),
            },
            "urls": {
                "self": url_of(self, "job", instance.id),
                "events": url_of(self, "job-events", instance.id),
                "cancel": url_of(self, "job-cancel", instance.id),
            },
        }

    def _images(self, job: Job) -> list[dict[str, Any]]:
        if job.status != Job.Status.SUCCEEDED:
            return []
        shown = ImageSerializer(context=self.context)
        images = getattr(job, reading.IMAGES, None)
        if images is None:
            images = job.images.order_by("index")
        return [shown.to_representation(image) for image in images]


def queue_of(estimate: Estimate | None) -> dict[str, Any] | None:
    """Return the data of QueueSerializer."""
    if estimate is None:
        return None
    return {
        "position": estimate.position,
        "eta_seconds_p50": _rounded(estimate.eta_p50),
        "eta_seconds_p90": _rounded(estimate.eta_p90),
        "feasible": estimate.feasible,
        "reason": estimate.reason,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _error(job: Job) -> dict[str, str] | None:
    if not job.error_code:
        return None
    return {"code": job.error_code, "detail": job.error_detail}


def _seconds(start: datetime, end: datetime | None) -> float | None:
    return round((end - start).total_seconds(), 4) if end else None
