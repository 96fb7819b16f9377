"""Predictions in Replicate's form, in and out. Shapes only: what is allowed is decided below, in `submission`."""

from typing import Any

from django.conf import settings
from rest_framework import serializers

from generation.api.serializers.jobs import MatchSerializer, QueueSerializer, queue_of
from generation.api.serializers.shapes import PageQuery, Strict
from generation.models import Delivery, Job
from generation.webhooks.endpoints import MAX_URL
from generation.webhooks.predictions import ABORTED, FORMATS, STATUSES, as_prediction

LOGS = "logs"  # an event of Replicate's that never happens here
THE_RELEASE_DECIDES = "The release decides it; leave it out."


class PredictionInputSerializer(Strict):
    """Exactly one of prompt and variant; a size in one way. Without a seed a fresh one is drawn and stated."""

    hints = {
        "text": "Say prompt.",
        "n": "Say num_outputs.",
        "num_images": "Say num_outputs.",
        "model": "It stands beside input, as model or version.",
        "aspect_ratio": "Give size, or width and height.",
        "num_inference_steps": THE_RELEASE_DECIDES,
        "guidance_scale": THE_RELEASE_DECIDES,
        "scheduler": THE_RELEASE_DECIDES,
        "negative_prompt": "A prompt variant says all there is to say; leave it out.",
    }

    prompt = serializers.CharField(
        required=False,
        help_text="A wording of the catalogue; case and spaces do not matter. Another text gets the variant that is "
        "nearest to it, if that is near enough, and the prediction says so in match.",
    )
    match = serializers.BooleanField(
        required=False, help_text="false: only a text that the catalogue has; default true."
    )
    variant = serializers.CharField(required=False, help_text="Slug of a prompt variant.")
    seed = serializers.IntegerField(
        required=False,
        min_value=0,
        max_value=2**32 - 1,
        help_text="Of the first image; the next has seed + 1.",
    )
    num_outputs = serializers.IntegerField(
        required=False,
        min_value=1,
        max_value=settings.MAX_IMAGES_PER_JOB,
        help_text="Images; default 1.",
    )
    size = serializers.RegexField(
        r"^\d{1,5}x\d{1,5}$",
        required=False,
        help_text='"WIDTHxHEIGHT", one of the release\'s sizes; or give width and height.',
    )
    width = serializers.IntegerField(required=False, min_value=1, max_value=99_999)
    height = serializers.IntegerField(required=False, min_value=1, max_value=99_999)
    output_format = serializers.ChoiceField(
        [*FORMATS.values(), Job.Format.JPEG.value], required=False, help_text="Default webp."
    )
    priority = serializers.IntegerField(
        required=False,
        min_value=-100,
        max_value=100,
        help_text="Higher runs first among your own jobs; default 0.",
    )
    metadata = serializers.BooleanField(
        required=False,
        help_text="Whether the files say how they were made; by default they hold the pixels alone.",
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """In the words of `submission`."""
        if ("prompt" in attrs) == ("variant" in attrs):
            raise serializers.ValidationError({"prompt": "Give exactly one of prompt and variant."})
        if "match" in attrs and "prompt" not in attrs:
            raise serializers.ValidationError({"match": "It goes with prompt."})
        sides = [attrs.pop(name) for name in ("width", "height") if name in attrs]
        if len(sides) == 1 or (sides and "size" in attrs):
            raise serializers.ValidationError({"width": "Give width and height, or size."})
        if sides:
            attrs["size"] = "{}x{}".format(*sides)
        if "output_format" in attrs:
            ours = {theirs: name for name, theirs in FORMATS.items()}
            attrs["output_format"] = ours.get(attrs["output_format"], attrs["output_format"])
        names = {"prompt": "text", "num_outputs": "n"}
        return {names.get(name, name): value for name, value in attrs.items()}


class ModelPredictionRequestSerializer(Strict):
    """For the model that the address names."""

    hints = {
        "webhook_completed": 'Say webhook, and webhook_events_filter: ["completed"].',
        "prompt": "It stands in input.",
    }

    input = PredictionInputSerializer()
    webhook = serializers.CharField(
        required=False,
        max_length=MAX_URL,
        help_text="https:// URL that is told of the prediction by signed messages.",
    )
    webhook_events_filter = serializers.ListField(
        child=serializers.ChoiceField([*Delivery.Event.values, LOGS]),
        required=False,
        allow_empty=False,
        max_length=len(Delivery.Event.values) + 1,
        help_text="Of what it is told; default: of all. There are no messages about logs.",
    )
    stream = serializers.BooleanField(
        required=False, help_text="Every prediction can be streamed, so this changes nothing."
    )

    def validate_webhook_events_filter(self, events: list[str]) -> list[str]:
        told = [event for event in events if event != LOGS]
        if not told:
            raise serializers.ValidationError("There are no messages about logs; name others.")
        return told

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "webhook_events_filter" in attrs and "webhook" not in attrs:
            raise serializers.ValidationError({"webhook_events_filter": "It goes with webhook."})
        return attrs


class PredictionRequestSerializer(ModelPredictionRequestSerializer):
    """At most one of version and model."""

    version = serializers.CharField(
        required=False,
        help_text="SHA-256 of a release's manifest, 8 digits of it or more, or the release's name; "
        "or retort/student, retort/teacher, retort/NAME, each with :VERSION if you like.",
    )
    model = serializers.CharField(
        required=False, help_text="Like version; also student or teacher, as in a job."
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "version" in attrs and "model" in attrs:
            raise serializers.ValidationError({"model": "Give one of version and model."})
        return super().validate(attrs)


class PredictionQuery(PageQuery):
    created_after = serializers.DateTimeField(required=False, help_text="ISO 8601.")
    created_before = serializers.DateTimeField(required=False, help_text="ISO 8601.")


class PredictionURLsSerializer(serializers.Serializer[Any]):
    get = serializers.URLField()
    cancel = serializers.URLField()
    stream = serializers.URLField(help_text="Server-sent events.")


class PredictionMetricsSerializer(serializers.Serializer[Any]):
    """Seconds; empty until the job has ended."""

    predict_time = serializers.FloatField(required=False, help_text="From the last start.")
    total_time = serializers.FloatField(required=False, help_text="From creation to the end.")
    queue_time = serializers.FloatField(required=False, help_text="From creation to the start.")
    device_time = serializers.FloatField(required=False, help_text="The share of its batch.")
    encode_time = serializers.FloatField(required=False, help_text="For writing its files.")


class PredictionSerializer(serializers.Serializer[Job]):
    """As Replicate has it; after `urls` come fields of ours."""

    id = serializers.CharField(help_text="Chosen by the client in a PUT, else the job's.")
    job = serializers.UUIDField(help_text="Id of the same job in /v1/jobs.")
    model = serializers.CharField(help_text="retort/student or retort/teacher")
    version = serializers.CharField(help_text="SHA-256 of the release's manifest.")
    status = serializers.ChoiceField([*STATUSES.values(), ABORTED])
    input = serializers.DictField(help_text="What to send again for the same pictures.")
    output = serializers.ListField(
        child=serializers.URLField(), allow_null=True, help_text="Links to the files."
    )
    error = serializers.CharField(allow_null=True)
    error_code = serializers.CharField(allow_null=True)
    logs = serializers.CharField(help_text="The steps so far, as a progress bar.")
    metrics = PredictionMetricsSerializer()
    data_removed = serializers.BooleanField(help_text="Whether the files were removed.")
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    completed_at = serializers.DateTimeField(allow_null=True)
    urls = PredictionURLsSerializer()
    phase = serializers.ChoiceField(Job.Status.choices, help_text="The status of the job.")
    queue = QueueSerializer(
        allow_null=True, help_text="Of one that has not ended, where one is answered, not a list."
    )
    variant = serializers.CharField(help_text="Slug of the prompt variant.")
    match = MatchSerializer(
        allow_null=True, help_text="Of a prompt that no variant has; null: the variant has it."
    )
    attempt = serializers.IntegerField(help_text="Executions so far.")
    cache = serializers.ChoiceField(Job.Cache.choices)

    def to_representation(self, instance: Job) -> dict[str, Any]:
        base_url = self.context["request"].build_absolute_uri("/")
        queue = queue_of(self.context.get("estimate"))
        return as_prediction(instance, base_url=base_url) | {"queue": queue}
