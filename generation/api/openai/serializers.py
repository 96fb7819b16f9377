"""OpenAI's images and models, in and out. What Retort cannot honour is refused by name, with the reason."""

import base64
import time
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from rest_framework import serializers

from generation.api.openai import token_usage
from generation.api.serializers.images import ImageSerializer
from generation.api.serializers.problems import NearestSerializer
from generation.api.serializers.shapes import Strict
from generation.errors import ImageGone
from generation.images import storage
from generation.models import Image, Job

UNSUPPORTED = "unsupported_parameter"
MAX_CHARACTERS = 32_000  # of a prompt, as at OpenAI
MAX_PARTIAL_IMAGES = 3

# Parameters of OpenAI and of others of which no value can be honoured.
REFUSED = {
    "style": "Styles are variants of the catalogue.",
    "num_inference_steps": "The release fixes the steps that it was distilled for.",
    "guidance_scale": "The release fixes the guidance that it was distilled for.",
    "negative_prompt": "The release fixes what it was distilled against.",
}


class Only(serializers.ChoiceField):
    """Of all that OpenAI has, these values; `why` says what is wrong with the others."""

    def __init__(self, choices: list[str], *, why: str, **options: Any) -> None:
        super().__init__(choices, required=False, allow_null=True, **options)
        self._why = why

    def to_internal_value(self, data: Any) -> Any:
        try:
            return super().to_internal_value(data)
        except serializers.ValidationError as error:
            known = " or ".join(self.choices)
            raise serializers.ValidationError(
                f"{self._why} Give {known}, or leave it out.", code=UNSUPPORTED
            ) from error


class ImagesRequestSerializer(Strict):
    """null is the default. Without a seed a fresh one is drawn."""

    prompt = serializers.CharField(
        required=False,
        allow_blank=True,
        allow_null=True,
        max_length=MAX_CHARACTERS,
        help_text="A wording of the catalogue. Needed, or variant.",
    )
    variant = serializers.CharField(
        required=False,
        allow_null=True,
        help_text="Slug of a prompt variant, instead of a prompt. Not OpenAI's.",
    )
    match = serializers.BooleanField(
        required=False,
        allow_null=True,
        help_text="false: only a prompt that the catalogue has. Not OpenAI's.",
    )
    model = serializers.CharField(
        required=False, allow_null=True, help_text="student, teacher or a release's name."
    )
    n = serializers.IntegerField(
        required=False,
        allow_null=True,
        min_value=1,
        max_value=settings.MAX_IMAGES_PER_JOB,
        help_text="Images; default 1.",
    )
    size = serializers.RegexField(
        r"^(auto|\d{1,5}x\d{1,5})$",
        required=False,
        allow_null=True,
        help_text='"WIDTHxHEIGHT", one of the release\'s sizes; "auto": its first.',
    )
    seed = serializers.IntegerField(
        required=False,
        allow_null=True,
        min_value=0,
        max_value=2**32 - 1,
        help_text="Of the first image; the next has seed + 1. Not OpenAI's.",
    )
    output_format = serializers.ChoiceField(
        Job.Format.choices, required=False, allow_null=True, help_text="Default png, as at OpenAI."
    )
    output_compression = serializers.IntegerField(
        required=False, allow_null=True, min_value=0, max_value=100, help_text="100 only."
    )
    response_format = serializers.ChoiceField(
        ["b64_json", "url"], required=False, allow_null=True, help_text="Default b64_json."
    )
    quality = Only(["auto", "standard"], why="A release has one quality.")
    background = Only(["auto", "opaque"], why="Pictures have no transparency.")
    moderation = Only(["auto", "low"], why="The catalogue is all that can be asked for.")
    user = serializers.CharField(
        required=False, allow_blank=True, allow_null=True, help_text="Kept nowhere."
    )
    safety_identifier = serializers.CharField(
        required=False, allow_blank=True, allow_null=True, help_text="Kept nowhere."
    )
    stream = serializers.BooleanField(
        required=False, allow_null=True, help_text="Server-sent events instead of one answer."
    )
    partial_images = serializers.IntegerField(
        required=False,
        allow_null=True,
        min_value=0,
        max_value=MAX_PARTIAL_IMAGES,
        help_text="Previews in a stream, as many as the steps give.",
    )

    def to_internal_value(self, data: Any) -> Any:
        refused = {name: why for name, why in REFUSED.items() if data.get(name) is not None}
        if refused:
            raise serializers.ValidationError(refused, code=UNSUPPORTED)
        return super().to_internal_value(
            {name: value for name, value in data.items() if name not in REFUSED}
        )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Without what is null."""
        asked = {name: value for name, value in attrs.items() if value is not None}
        faults = dict(_faults(asked))
        if faults:
            raise serializers.ValidationError(faults, code=UNSUPPORTED)
        if not asked.get("prompt") and "variant" not in asked:
            raise serializers.ValidationError(
                {"prompt": "Give a prompt, or the slug of a variant as variant."}, code="required"
            )
        return asked


def _faults(asked: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(parameter, what is wrong) of values that are each fine alone."""
    if asked.get("prompt") and "variant" in asked:
        yield "variant", "A variant has its text. Leave the prompt empty, or the variant out."
    if asked.get("output_compression", 100) != 100:
        yield "output_compression", "The quality of files is fixed. Give 100 or nothing."
    if asked.get("stream"):
        if asked.get("n", 1) > 1:
            yield "n", "A stream is of one image: its events do not say which. Give 1."
        if asked.get("response_format") == "url":
            yield "response_format", "A stream brings the images themselves. Give b64_json."
    elif asked.get("partial_images"):
        yield "partial_images", "Only a stream has partial images. Set stream to true."


class ImagesAnswerQuery(Strict):
    """Of the shell's question for the answer to a request of before: to one that waits, or to one that watches."""

    job = serializers.UUIDField()
    response_format = serializers.CharField(required=False)
    partial_images = serializers.IntegerField(required=False)


# --- images -----------------------------------------------------------------------------------------
FACTS = {"background": "opaque", "quality": "auto"}  # of every picture: there is but one of each


class GeneratedImageSerializer(serializers.Serializer[Any]):
    b64_json = serializers.CharField(required=False)
    url = serializers.URLField(
        required=False, help_text="A signed link to the file; needs no key, ends some time."
    )
    revised_prompt = serializers.CharField(
        required=False, help_text="The text of the variant, where another was asked for."
    )


class TokenDetailsSerializer(serializers.Serializer[Any]):
    image_tokens = serializers.IntegerField()
    text_tokens = serializers.IntegerField()


class UsageSerializer(serializers.Serializer[Any]):
    input_tokens = serializers.IntegerField()
    input_tokens_details = TokenDetailsSerializer()
    output_tokens = serializers.IntegerField()
    output_tokens_details = TokenDetailsSerializer()
    total_tokens = serializers.IntegerField()


class GeneratedImagesSerializer(serializers.Serializer[Job]):
    """Of a succeeded job. context: request, and response_format of the two."""

    created = serializers.IntegerField(help_text="Unix time.")
    data = GeneratedImageSerializer(many=True)  # type: ignore[assignment]
    background = serializers.ChoiceField(["opaque"])
    output_format = serializers.ChoiceField(Job.Format.choices)
    quality = serializers.ChoiceField(["auto"])
    size = serializers.CharField(help_text="WIDTHxHEIGHT")
    usage = UsageSerializer()

    def to_representation(self, instance: Job) -> dict[str, Any]:
        return {
            "created": int(instance.created_at.timestamp()),
            "data": [self._image(instance, image) for image in instance.images.all()],
            "output_format": instance.output_format,
            "size": f"{instance.width}x{instance.height}",
            "usage": _usage(instance),
            **FACTS,
        }

    def _image(self, job: Job, image: Image) -> dict[str, str]:
        revised = {"revised_prompt": job.embedding.text} if job.asked_text else {}
        if self.context["response_format"] == "url":
            return {
                "url": ImageSerializer(context=self.context).to_representation(image)["url"]
            } | revised
        return {"b64_json": _base64(image)} | revised


class CompletedEventSerializer(serializers.Serializer[Job]):
    """The last event of a stream, of a succeeded job with one image."""

    def to_representation(self, instance: Job) -> dict[str, Any]:
        image = instance.images.get()
        return {
            "type": "image_generation.completed",
            "b64_json": _base64(image),
            "created_at": int(time.time()),
            "output_format": instance.output_format,
            "size": f"{instance.width}x{instance.height}",
            "usage": _usage(instance),
            **FACTS,
        }


def _base64(image: Image) -> str:
    """Raises ImageGone and StorageFailed."""
    if not storage.exists(image.file):
        raise ImageGone("Submit it again with the seed of the job: it gives the same picture.")
    return base64.b64encode(storage.read(image.file)).decode()


def _usage(job: Job) -> dict[str, Any]:
    """In tokens of the release's own: they bill nothing, but clients of OpenAI count them."""
    text, pictures = token_usage.of_text(job), token_usage.of_images(job)
    return {
        "input_tokens": text,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": text},
        "output_tokens": pictures,
        "output_tokens_details": {"image_tokens": pictures, "text_tokens": 0},
        "total_tokens": text + pictures,
    }


# --- models and errors --------------------------------------------------------------------------------
class ModelSerializer(serializers.Serializer[Any]):
    id = serializers.CharField(help_text="student, teacher or a release's name.")
    object = serializers.ChoiceField(["model"])
    created = serializers.IntegerField(help_text="Unix time.")
    owned_by = serializers.CharField()


class ModelListSerializer(serializers.Serializer[Any]):
    object = serializers.ChoiceField(["list"])
    data = ModelSerializer(many=True)  # type: ignore[assignment]


class OpenAIFaultSerializer(serializers.Serializer[Any]):
    message = serializers.CharField()
    type = serializers.CharField()
    param = serializers.CharField(allow_null=True)
    code = serializers.CharField(help_text="A stable word for programs; it has a page.")
    nearest = NearestSerializer(
        many=True, required=False, help_text="Of variant_not_found: the nearest prompt variants."
    )


class OpenAIErrorSerializer(serializers.Serializer[Any]):
    """Refusals on the routes of OpenAI."""

    error = OpenAIFaultSerializer()
