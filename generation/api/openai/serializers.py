"""Serializers of OpenAI's images and models. Unsupported parameters are refused with the reason."""

import base64
import time
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from rest_framework import serializers

from generation.api.openai import token_usage
from generation.api.serializers.images import ImageSerializer
from generation.api.serializers.problems import NearestSerializer
from generation.api.serializers.shapes import Strict, WholeNumber
from generation.images import store as images
from generation.models import Image, Job

UNSUPPORTED = "unsupported_parameter"
MAX_CHARACTERS = 32_000  # of a prompt, as at OpenAI
MAX_PARTIAL_IMAGES = 3

# Parameters of OpenAI and others that are not supported with any value.
REFUSED = {
    "style": "Use a prompt variant that describes the style.",
    "num_inference_steps": "The release fixes the number of steps.",
    "guidance_scale": "The release fixes the guidance.",
    "negative_prompt": "Releases do not support it.",
}


class Only(serializers.ChoiceField):
    """Choice field with a subset of OpenAI's values; `why` explains why others are refused."""

    def __init__(self, choices: list[str], *, why: str, **options: Any) -> None:
        super().__init__(choices, **options)
        self._why = why

    def to_internal_value(self, data: Any) -> Any:
        try:
            return super().to_internal_value(data)
        except serializers.ValidationError as error:
            known = " or ".join(self.choices)
            raise serializers.ValidationError(
                f"{self._why} Give {known}, or omit it.", code=UNSUPPORTED
            ) from error


class ImagesRequestSerializer(Strict):
    """null means the default. Without a seed a random one is used."""

    prompt = serializers.CharField(
        allow_blank=True,
        max_length=MAX_CHARACTERS,
        help_text="Text of a prompt variant. Required unless variant is given.",
    )
    variant = serializers.CharField(
        help_text="Slug of a prompt variant, instead of a prompt. Not in OpenAI's API."
    )
    match = serializers.BooleanField(
        help_text="false: accept only prompts in the catalogue. Not in OpenAI's API."
    )
    model = serializers.CharField(help_text="student, teacher or the name of a release.")
    n = WholeNumber(1, settings.MAX_IMAGES_PER_JOB, help_text="Number of images; default 1.")
    size = serializers.RegexField(
        r"^(auto|\d{1,5}x\d{1,5})$",
        help_text='"WIDTHxHEIGHT", one of the sizes of the release; "auto": its first.',
    )
    seed = WholeNumber(
        0,
        2**32 - 1,
        help_text="Seed of the first image; further images count up. Not in OpenAI's API.",
    )
    output_format = serializers.ChoiceField(
        Job.Format.choices, help_text="Default png, as at OpenAI."
    )
    output_compression = WholeNumber(0, 100, help_text="100 is the only value that is accepted.")
    response_format = serializers.ChoiceField(["b64_json", "url"], help_text="Default b64_json.")
    quality = Only(["auto", "standard"], why="Releases have one quality.")
    background = Only(["auto", "opaque"], why="Transparency is not supported.")
    moderation = Only(["auto", "low"], why="Only prompts of the catalogue are accepted.")
    user = serializers.CharField(allow_blank=True, help_text="Accepted, not stored.")
    safety_identifier = serializers.CharField(allow_blank=True, help_text="Accepted, not stored.")
    stream = serializers.BooleanField(help_text="Send server-sent events instead of one answer.")
    partial_images = WholeNumber(
        0,
        MAX_PARTIAL_IMAGES,
        help_text="Maximum number of previews in a stream; a release with few steps sends fewer.",
    )

    def get_fields(self) -> dict[str, serializers.Field]:
        fields = super().get_fields()
        for field in fields.values():
            field.allow_null = True
        return fields

    def to_internal_value(self, data: Any) -> Any:
        refused = {name: why for name, why in REFUSED.items() if data.get(name) is not None}
        if refused:
            raise serializers.ValidationError(refused, code=UNSUPPORTED)
        return super().to_internal_value(
            {name: value for name, value in data.items() if name not in REFUSED}
        )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Return the parameters that are not null."""
        asked = {name: value for name, value in attrs.items() if value is not None}
        faults = dict(_faults(asked))
        if faults:
            raise serializers.ValidationError(faults, code=UNSUPPORTED)
        if not asked.get("prompt") and "variant" not in asked:
            raise serializers.ValidationError(
                {"prompt": "Give prompt, or variant with the slug of a variant."}, code="required"
            )
        return asked


def _faults(asked: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (parameter, message) of invalid combinations."""
    if asked.get("prompt") and "variant" in asked:
        yield "variant", "Give only one of prompt and variant."
    if asked.get("output_compression", 100) != 100:
        yield "output_compression", "The quality of files is fixed. Give 100, or omit it."
    if asked.get("stream"):
        if asked.get("n", 1) > 1:
            yield "n", "A stream supports one image only: its events have no index. Give 1."
        if asked.get("response_format") == "url":
            yield "response_format", "A stream contains the images themselves. Give b64_json."
    elif asked.get("partial_images"):
        yield "partial_images", "Partial images need a stream. Set stream to true."


class ImagesAnswerQuery(Strict):
    """Query of the ASGI shell's request for the answer: to a waiting client, or to a stream."""

    mandatory = ("job",)

    job = serializers.UUIDField()
    response_format = serializers.CharField()
    partial_images = serializers.IntegerField()


# --- images -----------------------------------------------------------------------------------------
FACTS = {"background": "opaque", "quality": "auto"}  # the same for every image


class GeneratedImageSerializer(serializers.Serializer[Any]):
    b64_json = serializers.CharField(required=False)
    url = serializers.URLField(
        required=False, help_text="Signed link to the file; needs no key, expires."
    )
    revised_prompt = serializers.CharField(
        required=False, help_text="Text of the variant, if the prompt was matched to it."
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
    """Answer for a succeeded job. context: request, response_format."""

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
    """Last event of a stream, for a succeeded job with one image."""

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
    """Return the file in base64. Raises StorageFailed; FileMissing if it is no longer stored."""
    return base64.b64encode(images.content(image)).decode()


def _usage(job: Job) -> dict[str, Any]:
    """Return token counts of the release's own tokenizer: nothing is billed, but clients of OpenAI read them."""
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
    id = serializers.CharField(help_text="student, teacher or the name of a release.")
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
    code = serializers.CharField(help_text="Stable code for programs; it has a page.")
    nearest = NearestSerializer(
        many=True, required=False, help_text="For variant_not_found: the most similar variants."
    )


class OpenAIErrorSerializer(serializers.Serializer[Any]):
    """Error on OpenAI's routes."""

    error = OpenAIFaultSerializer()
