"""Images and links to their files, in and out."""

from typing import Any

from rest_framework import serializers

from generation.api.serializers.shapes import Strict, absolute
from generation.images import links
from generation.models import Image, Job

# Clients read jobs all day, so images and jobs are written out by hand: through REST framework's fields a job costs
# four times as much. The fields are the schema; a test holds the two together.


class LinkQuery(Strict):
    expires = serializers.RegexField(r"^\d{1,12}$", help_text="Unix time.")
    signature = serializers.CharField()


class FileQuery(LinkQuery):
    download = serializers.BooleanField(
        required=False, default=False, help_text="Have a browser save the file, not show it."
    )


class ImageSerializer(serializers.Serializer[Image]):
    id = serializers.UUIDField()
    index = serializers.IntegerField()
    seed = serializers.IntegerField()
    url = serializers.URLField(help_text="A signed link to the file; needs no key, ends some time.")
    thumbnail_url = serializers.URLField(
        help_text="Likewise to a WebP of at most 256 pixels on its longest side."
    )
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
