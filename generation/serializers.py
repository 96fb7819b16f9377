"""What goes in and out over the API, field by field. Shapes only: what is allowed is decided below, in `submission`."""

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
        help_text="student, teacher or a release's name. Default: the student, else the teacher.",
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
            "urls",
        ]

    def get_sizes(self, release: Release) -> list[str]:
        return [f"{width}x{height}" for width, height in release.image_sizes]

    @extend_schema_field(SelfURLSerializer)
    def get_urls(self, release: Release) -> dict[str, str]:
        return {"self": _url(self, "release", release.name)}


# Explicit fields, not ModelSerializer: clients read jobs all day, and introspection costs a third of the answer.
class ImageSerializer(serializers.Serializer[Image]):
    id = serializers.UUIDField()
    index = serializers.IntegerField()
    seed = serializers.IntegerField()
    url = serializers.SerializerMethodField(
        help_text="A signed link to the file; needs no key, ends some time."
    )
    sha256 = serializers.CharField(help_text="Of the file; also its ETag.")
    width = serializers.IntegerField()
    height = serializers.IntegerField()
    format = serializers.ChoiceField(Job.Format.choices)
    size_bytes = serializers.IntegerField()

    @extend_schema_field(serializers.URLField)
    def get_url(self, image: Image) -> str:
        return _absolute(self, links.image_path(image.id))


class ImageDetailSerializer(ImageSerializer):
    job = serializers.UUIDField(source="job_id")
    created_at = serializers.DateTimeField()


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
    variant = serializers.CharField(source="variant.slug")
    text = serializers.CharField(
        source="embedding.text", help_text="The wording that the images are made from."
    )
    model = serializers.CharField(source="release.name", help_text="Name of the release.")
    n = serializers.IntegerField()
    seed = serializers.IntegerField(help_text="Of the first image; the next has seed + 1.")
    size = serializers.SerializerMethodField()
    num_inference_steps = serializers.IntegerField()
    output_format = serializers.ChoiceField(Job.Format.choices)
    priority = serializers.IntegerField()
    cache = serializers.ChoiceField(Job.Cache.choices)
    attempt = serializers.IntegerField(help_text="Executions so far.")
    progress = serializers.SerializerMethodField(help_text="Per cent.")
    error = serializers.SerializerMethodField()
    images = serializers.SerializerMethodField()
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True, help_text="Of the last attempt.")
    finished_at = serializers.DateTimeField(allow_null=True)
    metrics = serializers.SerializerMethodField()
    urls = serializers.SerializerMethodField()

    def get_size(self, job: Job) -> str:
        return f"{job.width}x{job.height}"

    def get_progress(self, job: Job) -> int:
        return jobs.progress(job)

    @extend_schema_field(ImageSerializer(many=True))
    def get_images(self, job: Job) -> list[dict[str, Any]]:
        if job.status != Job.Status.SUCCEEDED:
            return []
        return [ImageSerializer(image, context=self.context).data for image in job.images.all()]

    @extend_schema_field(JobErrorSerializer(allow_null=True))
    def get_error(self, job: Job) -> dict[str, str] | None:
        if job.status != Job.Status.FAILED:
            return None
        return {"code": job.error_code, "detail": job.error_detail}

    @extend_schema_field(JobMetricsSerializer)
    def get_metrics(self, job: Job) -> dict[str, float | None]:
        def since_creation(moment: Any) -> float | None:
            return round((moment - job.created_at).total_seconds(), 4) if moment else None

        return {
            "queue_seconds": since_creation(job.started_at),
            "device_seconds": round(job.device_seconds, 4),
            "total_seconds": since_creation(job.finished_at),
        }

    @extend_schema_field(JobURLsSerializer)
    def get_urls(self, job: Job) -> dict[str, str]:
        return {"self": _url(self, "job", job.id), "cancel": _url(self, "job-cancel", job.id)}


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
