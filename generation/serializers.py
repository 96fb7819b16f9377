"""What goes in and out over the API, field by field. Shapes only: what is allowed is decided below, in `submission`."""

from datetime import datetime
from typing import Any

from django.conf import settings
from django.urls import reverse
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request

from generation import jobs, links
from generation.models import Image, Job, PromptVariant, Release

MAX_WAIT_SECONDS = 60
MAX_PAGE = 100


class Strict(serializers.Serializer[Any]):
    """Refuses, by name, what it does not know: a parameter that is silently dropped is a wrong picture."""

    def to_internal_value(self, data: Any) -> Any:
        if hasattr(data, "keys"):
            unknown = sorted(set(data.keys()) - set(self.fields))
            if unknown:
                known = ", ".join(sorted(self.fields))
                raise serializers.ValidationError(
                    dict.fromkeys(unknown, f"Unknown parameter. Known: {known}."),
                    code="unsupported_parameter",
                )
        return super().to_internal_value(data)


def query(serializer: type[Strict], request: Request) -> dict[str, Any]:
    """The validated query of a request."""
    checked = serializer(data=request.query_params.dict())
    checked.is_valid(raise_exception=True)
    return checked.validated_data


def _absolute(serializer: serializers.BaseSerializer[Any], path: str) -> str:
    request = serializer.context.get("request")
    return request.build_absolute_uri(path) if request else path


def _url(serializer: serializers.BaseSerializer[Any], name: str, *arguments: Any) -> str:
    return _absolute(serializer, reverse(name, args=arguments))


# --- in -------------------------------------------------------------------------------------------
class JobRequestSerializer(Strict):
    """Exactly one of variant and text. Without a seed a fresh one is drawn and stated on the job."""

    variant = serializers.CharField(required=False, help_text="Slug of a prompt variant.")
    text = serializers.CharField(
        required=False, help_text="A wording of the catalogue; case and spaces do not matter."
    )
    n = serializers.IntegerField(
        required=False,
        min_value=1,
        max_value=settings.MAX_IMAGES_PER_JOB,
        help_text="Images; default 1.",
    )
    seed = serializers.IntegerField(
        required=False,
        min_value=0,
        max_value=2**32 - 1,
        help_text="Of the first image; the next has seed + 1.",
    )
    size = serializers.RegexField(
        r"^\d{1,5}x\d{1,5}$",
        required=False,
        help_text='"WIDTHxHEIGHT", one of the release\'s sizes.',
    )
    output_format = serializers.ChoiceField(
        Job.Format.choices, required=False, help_text="Default webp."
    )
    model = serializers.CharField(
        required=False,
        help_text="student, teacher or a release's name. "
        "By default the student if it covers the variant, else the teacher.",
    )
    priority = serializers.IntegerField(
        required=False,
        min_value=-100,
        max_value=100,
        help_text="Higher runs first among your own jobs; default 0.",
    )


class PageQuery(Strict):
    limit = serializers.IntegerField(
        required=False, default=20, min_value=1, max_value=MAX_PAGE, help_text="Results on a page."
    )
    cursor = serializers.CharField(required=False, help_text="From the links next and previous.")


class VariantQuery(PageQuery):
    q = serializers.CharField(required=False, help_text="Part of the text or of the slug.")
    tag = serializers.CharField(required=False, help_text="Variants that have this tag.")


class JobQuery(PageQuery):
    status = serializers.ChoiceField(Job.Status.choices, required=False)


class ReleaseQuery(PageQuery):
    kind = serializers.ChoiceField(Release.Kind.choices, required=False)
    status = serializers.ChoiceField(Release.Status.choices, required=False)


class WaitQuery(Strict):
    wait = serializers.FloatField(
        required=False,
        default=0,
        min_value=0,
        max_value=MAX_WAIT_SECONDS,
        help_text="Seconds to hold the answer while the job has not ended.",
    )


class LinkQuery(Strict):
    expires = serializers.RegexField(r"^\d{1,12}$", help_text="Unix time.")
    signature = serializers.CharField()


class NoQuery(Strict):
    pass


# --- out ------------------------------------------------------------------------------------------
class SelfURLSerializer(serializers.Serializer[Any]):
    self = serializers.URLField()


class VariantSerializer(serializers.ModelSerializer[PromptVariant]):
    urls = serializers.SerializerMethodField()

    class Meta:
        model = PromptVariant
        fields = ["slug", "text", "tags", "revision", "created_at", "updated_at", "urls"]

    @extend_schema_field(SelfURLSerializer)
    def get_urls(self, variant: PromptVariant) -> dict[str, str]:
        return {"self": _url(self, "variant", variant.slug)}


class ReleaseSerializer(serializers.ModelSerializer[Release]):
    sizes = serializers.SerializerMethodField()
    num_inference_steps = serializers.IntegerField()
    noise_scheduler = serializers.CharField(source="manifest.noise_scheduler")
    guidance_scale = serializers.FloatField(source="manifest.guidance_scale", help_text="1: none.")
    urls = serializers.SerializerMethodField()

    class Meta:
        model = Release
        fields = [
            "name",
            "kind",
            "status",
            "sizes",
            "num_inference_steps",
            "noise_scheduler",
            "guidance_scale",
            "encoder_fingerprint",
            "manifest_sha256",
            "size_bytes",
            "registered_at",
            "activated_at",
            "retired_at",
            "max_tries",
            "canary_percent",
            "urls",
        ]

    def get_sizes(self, release: Release) -> list[str]:
        return [f"{width}x{height}" for width, height in release.image_sizes]

    @extend_schema_field(SelfURLSerializer)
    def get_urls(self, release: Release) -> dict[str, str]:
        return {"self": _url(self, "release", release.name)}


# Clients read jobs all day, so these two are written out by hand: through REST framework's fields a job costs four
# times as much. The fields are the schema; a test holds the two together.
class ImageSerializer(serializers.Serializer[Image]):
    id = serializers.UUIDField()
    index = serializers.IntegerField()
    seed = serializers.IntegerField()
    url = serializers.URLField(help_text="A signed link to the file; needs no key, ends some time.")
    sha256 = serializers.CharField(help_text="Of the file; also its ETag.")
    width = serializers.IntegerField()
    height = serializers.IntegerField()
    format = serializers.ChoiceField(Job.Format.choices)
    size_bytes = serializers.IntegerField()
    tries = serializers.IntegerField(help_text="Pictures that were made for it.")
    is_accepted = serializers.BooleanField(
        allow_null=True,
        help_text="Whether the detector finds in it what the variant says; null: nobody looked.",
    )
    failing = serializers.ListField(
        child=serializers.CharField(), help_text="What the detector finds at fault."
    )

    def to_representation(self, instance: Image) -> dict[str, Any]:
        return {
            "id": str(instance.id),
            "index": instance.index,
            "seed": instance.seed,
            "url": _absolute(self, links.image_path(instance.id)),
            "sha256": instance.sha256,
            "width": instance.width,
            "height": instance.height,
            "format": instance.format,
            "size_bytes": instance.size_bytes,
            "tries": instance.tries,
            "is_accepted": instance.is_accepted,
            "failing": instance.failing,
        }


class ImageDetailSerializer(ImageSerializer):
    job = serializers.UUIDField()
    created_at = serializers.DateTimeField()

    def to_representation(self, instance: Image) -> dict[str, Any]:
        facts = {"job": str(instance.job_id), "created_at": instance.created_at}
        return super().to_representation(instance) | facts


class JobErrorSerializer(serializers.Serializer[Any]):
    code = serializers.CharField()
    detail = serializers.CharField()


class JobMetricsSerializer(serializers.Serializer[Any]):
    queue_seconds = serializers.FloatField(
        allow_null=True, help_text="From creation to the last start."
    )
    device_seconds = serializers.FloatField()
    total_seconds = serializers.FloatField(allow_null=True, help_text="From creation to the end.")


class JobURLsSerializer(serializers.Serializer[Any]):
    self = serializers.URLField()
    cancel = serializers.URLField()


class JobSerializer(serializers.Serializer[Job]):
    id = serializers.UUIDField()
    status = serializers.ChoiceField(Job.Status.choices)
    variant = serializers.CharField(help_text="Slug.")
    text = serializers.CharField(help_text="The wording that the images are made from.")
    model = serializers.CharField(help_text="Name of the release.")
    n = serializers.IntegerField(help_text="Images.")
    seed = serializers.IntegerField(help_text="Of the first image; the next has seed + 1.")
    size = serializers.CharField(help_text="WIDTHxHEIGHT")
    num_inference_steps = serializers.IntegerField()
    output_format = serializers.ChoiceField(Job.Format.choices)
    priority = serializers.IntegerField()
    max_tries = serializers.IntegerField(
        help_text="0: nobody looks at an image; 1: it is judged; more: made again with other seeds while it fails."
    )
    cache = serializers.ChoiceField(Job.Cache.choices)
    attempt = serializers.IntegerField(help_text="Executions so far.")
    progress = serializers.IntegerField(help_text="Per cent.")
    error = JobErrorSerializer(allow_null=True, help_text="Of a failed job.")
    images = ImageSerializer(many=True, help_text="Of a succeeded job.")
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True, help_text="Of the last attempt.")
    finished_at = serializers.DateTimeField(allow_null=True)
    metrics = JobMetricsSerializer()
    urls = JobURLsSerializer()

    def to_representation(self, instance: Job) -> dict[str, Any]:
        return {
            "id": str(instance.id),
            "status": instance.status,
            "variant": instance.variant.slug,
            "text": instance.embedding.text,
            "model": instance.release.name,
            "n": instance.n,
            "seed": instance.seed,
            "size": f"{instance.width}x{instance.height}",
            "num_inference_steps": instance.num_inference_steps,
            "output_format": instance.output_format,
            "priority": instance.priority,
            "max_tries": instance.max_tries,
            "cache": instance.cache,
            "attempt": instance.attempt,
            "progress": jobs.progress(instance),
            "error": _error(instance),
            "images": self._images(instance),
            "created_at": instance.created_at,
            "started_at": instance.started_at,
            "finished_at": instance.finished_at,
            "metrics": {
                "queue_seconds": _seconds(instance.created_at, instance.started_at),
                "device_seconds": round(instance.device_seconds, 4),
                "total_seconds": _seconds(instance.created_at, instance.finished_at),
            },
            "urls": {
                "self": _url(self, "job", instance.id),
                "cancel": _url(self, "job-cancel", instance.id),
            },
        }

    def _images(self, job: Job) -> list[dict[str, Any]]:
        if job.status != Job.Status.SUCCEEDED:
            return []
        shown = ImageSerializer(context=self.context)
        return [shown.to_representation(image) for image in job.images.all()]


def _error(job: Job) -> dict[str, str] | None:
    if job.status != Job.Status.FAILED:
        return None
    return {"code": job.error_code, "detail": job.error_detail}


def _seconds(start: datetime, end: datetime | None) -> float | None:
    return round((end - start).total_seconds(), 4) if end else None


class ProblemErrorSerializer(serializers.Serializer[Any]):
    detail = serializers.CharField()
    code = serializers.CharField()
    parameter = serializers.CharField(required=False)
    pointer = serializers.CharField(
        required=False, help_text="JSON Pointer into the request's body."
    )


class ProblemSerializer(serializers.Serializer[Any]):
    """RFC 9457."""

    type = serializers.CharField(help_text="Always about:blank; go by `code`.")
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    code = serializers.CharField(help_text="A stable word for programs.")
    retryable = serializers.BooleanField(help_text="Whether the same request may succeed later.")
    instance = serializers.CharField(required=False, help_text="Id of this request in the logs.")
    parameter = serializers.CharField(required=False)
    errors = ProblemErrorSerializer(many=True, required=False)  # type: ignore[assignment]
