"""Serializers of images and of links to their files."""

from typing import Any

from rest_framework import serializers

from generation.api.serializers.shapes import Strict, absolute
from generation.images import links
from generation.models import Image, Job

# `to_representation` is hand-written, because REST framework's takes four times as long and jobs are read often. The
# declared fields are the schema; a test compares the two.


class LinkQuery(Strict):
    mandatory = ("expires", "signature")

    expires = serializers.RegexField(r"^\d{1,12}$", help_text="Unix time.")
    signature = serializers.CharField()


class FileQuery(LinkQuery):
    download = serializers.BooleanField(
        default=False, help_text="Whether a browser saves the file instead of showing it."
    )


class ImageSerializer(serializers.Serializer[Image]):
    id = serializers.UUIDField()
    index = serializers.IntegerField()
    seed = serializers.IntegerField()
    url = serializers.URLField(help_text="Signed link to the file; needs no key, expires.")
    thumbnail_url = serializers.URLField(
        help_text="Signed link to a WebP thumbnail, at most 256 pixels on its longest side."
    )
    sha256 = serializers.CharField(help_text="SHA-256 of the file; also its ETag.")
    width = serializers.IntegerField()
    height = serializers.IntegerField()
    format = serializers.ChoiceField(Job.Format.choices)
    size_bytes = serializers.IntegerField()
    tries = serializers.IntegerField(help_text="Number of images generated to get this one.")
    is_accepted = serializers.BooleanField(
        allow_null=True,
        help_text="Whether the detector found what the variant describes; null: not checked.",
    )
    failing = serializers.ListField(
        child=serializers.CharField(), help_text="Faults that the detector found."
    )

    def to_representation(self, instance: Image) -> dict[str, Any]:
        return {
            "id": str(instance.id),
            "index": instance.index,
            "seed": instance.seed,
            "url": absolute(self, links.image_path(instance.id)),
            "thumbnail_url": absolute(self, links.thumbnail_path(instance.id)),
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
