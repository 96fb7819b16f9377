"""Serializers of prompt variants."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from generation.api.serializers.shapes import PageQuery, SelfURLSerializer, absolute, url
from generation.images import links
from generation.models import PromptVariant


class VariantQuery(PageQuery):
    q = serializers.CharField(help_text="Substring of the text or the slug.")
    tag = serializers.CharField(help_text="Only variants with this tag.")
    covered = serializers.BooleanField(
        help_text="Only variants that the active student covers, or only the others."
    )


class ExampleSerializer(serializers.Serializer[Any]):
    image = serializers.UUIDField(help_text="Id of your newest image of the variant.")
    thumbnail = serializers.URLField()


class VariantSerializer(serializers.ModelSerializer[PromptVariant]):
    is_covered = serializers.BooleanField(
        help_text="Whether the active student was made for this text."
    )
    served_by = serializers.SerializerMethodField(
        help_text="Release that serves a request without a model; null: such requests are refused."
    )
    example = serializers.SerializerMethodField()
    urls = serializers.SerializerMethodField()

    class Meta:
        model = PromptVariant
        fields = [
            "slug",
            "text",
            "tags",
            "revision",
            "is_covered",
            "served_by",
            "example",
            "created_at",
            "updated_at",
            "urls",
        ]

    def get_served_by(self, variant: PromptVariant) -> str | None:
        release = self.context["serving"].release(variant)
        return release.name if release else None

    @extend_schema_field(ExampleSerializer(allow_null=True))
    def get_example(self, variant: Any) -> dict[str, Any] | None:
        image = self.context["examples"].get(variant.pk)
        if image is None:
            return None
        return {"image": str(image), "thumbnail": absolute(self, links.thumbnail_path(image))}

    @extend_schema_field(SelfURLSerializer)
    def get_urls(self, variant: PromptVariant) -> dict[str, str]:
        return {"self": url(self, "variant", variant.slug)}
