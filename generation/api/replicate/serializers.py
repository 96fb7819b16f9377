"""Serializers of predictions in Replicate's format. The rules are in `generation.jobs.submission`."""

from typing import Any

from django.conf import settings
from drf_spectacular.utils import extend_schema_serializer
from rest_framework import serializers

from generation.api.serializers.jobs import (
    ImageParameters,
    MatchSerializer,
    QueueSerializer,
    queue_of,
)
from generation.api.serializers.shapes import PageQuery, Strict, WholeNumber
from generation.models import Delivery, Job
from generation.webhooks.endpoints import MAX_URL
from generation.webhooks.predictions import ABORTED, FORMATS, STATUSES, as_prediction

LOGS = "logs"  # an event of Replicate's that is never sent
THE_RELEASE_DECIDES = "The release fixes it. Remove the parameter."


# Generators of clients name the type of Prediction.input "PredictionInput".
@extend_schema_serializer(component_name="PredictionParameters")
class PredictionInputSerializer(ImageParameters):
    """Exactly one of prompt and variant is required; a size in one form. Without a seed a random one is used."""

    hints = {
        "text": "Use prompt.",
        "n": "Use num_outputs.",
        "num_images": "Use num_outputs.",
        "model": "Move it out of input: it is a parameter of the prediction, like version.",
        "aspect_ratio": "Use size, or width and height.",
        "num_inference_steps": THE_RELEASE_DECIDES,
        "guidance_scale": THE_RELEASE_DECIDES,
        "scheduler": THE_RELEASE_DECIDES,
        "negative_prompt": "Prompt variants have none. Remove the parameter.",
    }

    prompt = serializers.CharField(
        help_text="Text of a prompt variant; case and spaces do not matter. A text that is not in the catalogue is "
        "matched to the most similar variant if it is similar enough; the prediction then has match."
    )
    variant = serializers.CharField(help_text="Slug of a prompt variant.")
    num_outputs = WholeNumber(
        1, settings.MAX_IMAGES_PER_JOB, help_text="Number of images; default 1."
    )
    width = WholeNumber(1, 99_999, help_text="With height, an alternative to size.")
    height = WholeNumber(1, 99_999)
    output_format = serializers.ChoiceField(
        [*FORMATS.values(), Job.Format.JPEG.value], help_text="Default webp."
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Return the parameters by the names of `submission`."""
        if ("prompt" in attrs) == ("variant" in attrs):
            raise serializers.ValidationError({"prompt": "Give exactly one of prompt and variant."})
        if "match" in attrs and "prompt" not in attrs:
            raise serializers.ValidationError({"match": "It needs prompt."})
        sides = [attrs.pop(name) for name in ("width", "height") if name in attrs]
        if len(sides) == 1 or (sides and "size" in attrs):
            raise serializers.ValidationError({"width": "Give both width and height, or size."})
        if sides:
            attrs["size"] = "{}x{}".format(*sides)
        if "output_format" in attrs:
            ours = {theirs: name for name, theirs in FORMATS.items()}
            attrs["output_format"] = ours.get(attrs["output_format"], attrs["output_format"])
        names = {"prompt": "text", "num_outputs": "n"}
        return {names.get(name, name): value for name, value in attrs.items()}


class ModelPredictionRequestSerializer(Strict):
    """Request for the model named in the URL."""

    hints = {
        "webhook_completed": 'Use webhook, and webhook_events_filter: ["completed"].',
        "prompt": "Move it into input.",
    }
    mandatory = ("input",)

    input = PredictionInputSerializer()
    webhook = serializers.CharField(
        max_length=MAX_URL,
        help_text="https:// URL that receives signed webhooks about the prediction.",
    )
    webhook_events_filter = serializers.ListField(
        child=serializers.ChoiceField([*Delivery.Event.values, LOGS]),
        allow_empty=False,
        max_length=len(Delivery.Event.values) + 1,
        help_text="Events to send; default: all. logs is not supported.",
    )
    stream = serializers.BooleanField(help_text="Has no effect: every prediction can be streamed.")

    def validate_webhook_events_filter(self, events: list[str]) -> list[str]:
        supported = [event for event in events if event != LOGS]
        if not supported:
            raise serializers.ValidationError("logs is not supported; choose other events.")
        return supported

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "webhook_events_filter" in attrs and "webhook" not in attrs:
            raise serializers.ValidationError({"webhook_events_filter": "It needs webhook."})
        return attrs


class PredictionRequestSerializer(ModelPredictionRequestSerializer):
    """At most one of version and model."""

    version = serializers.CharField(
        help_text="SHA-256 of a release's manifest (at least 8 digits) or the name of the release; "
        "or retort/student, retort/teacher, retort/NAME, each optionally with :VERSION."
    )
    model = serializers.CharField(
        help_text="Alternative to version; also student or teacher, as in a job."
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "version" in attrs and "model" in attrs:
            raise serializers.ValidationError({"model": "Give only one of version and model."})
        return super().validate(attrs)


class PredictionQuery(PageQuery):
    created_after = serializers.DateTimeField(help_text="ISO 8601.")
    created_before = serializers.DateTimeField(help_text="ISO 8601.")


class PredictionURLsSerializer(serializers.Serializer[Any]):
    get = serializers.URLField()
    cancel = serializers.URLField()
    stream = serializers.URLField(help_text="Server-sent events.")


class PredictionMetricsSerializer(serializers.Serializer[Any]):
    """Seconds; empty until the job has finished."""

    predict_time = serializers.FloatField(required=False, help_text="Seconds of the last attempt.")
    total_time = serializers.FloatField(required=False, help_text="From creation to finish.")
    queue_time = serializers.FloatField(required=False, help_text="From creation to start.")
    device_time = serializers.FloatField(required=False, help_text="Share of its batch's time.")
    encode_time = serializers.FloatField(required=False, help_text="Encoding and storing files.")


class PredictionSerializer(serializers.Serializer[Job]):
    """A prediction in Replicate's format; the fields after `urls` are Retort's."""

    id = serializers.CharField(help_text="Id chosen by the client in a PUT, otherwise the job's.")
    job = serializers.UUIDField(help_text="Id of the job in /v1/jobs.")
    model = serializers.CharField(help_text="retort/student or retort/teacher")
    version = serializers.CharField(help_text="SHA-256 of the release's manifest.")
    status = serializers.ChoiceField([*STATUSES.values(), ABORTED])
    input = serializers.DictField(help_text="Input that gives the same images again.")
    output = serializers.ListField(
        child=serializers.URLField(), allow_null=True, help_text="Links to the files."
    )
    error = serializers.CharField(allow_null=True)
    error_code = serializers.CharField(allow_null=True)
    logs = serializers.CharField(help_text="Steps so far, as a progress bar.")
    metrics = PredictionMetricsSerializer()
    data_removed = serializers.BooleanField(help_text="Whether the files were deleted.")
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    completed_at = serializers.DateTimeField(allow_null=True)
    urls = PredictionURLsSerializer()
    phase = serializers.ChoiceField(Job.Status.choices, help_text="Status of the job.")
    queue = QueueSerializer(
        allow_null=True, help_text="Only for an unfinished prediction, and not in lists."
    )
    variant = serializers.CharField(help_text="Slug of the prompt variant.")
    match = MatchSerializer(
        allow_null=True, help_text="Set if the prompt was matched to the most similar variant."
    )
    attempt = serializers.IntegerField(help_text="Number of attempts so far.")
    cache = serializers.ChoiceField(Job.Cache.choices)

    def to_representation(self, instance: Job) -> dict[str, Any]:
        base_url = self.context["request"].build_absolute_uri("/")
        queue = queue_of(self.context.get("estimate"))
        return as_prediction(instance, base_url=base_url) | {"queue": queue}
