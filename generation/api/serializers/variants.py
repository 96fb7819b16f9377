"""Serializers of prompt variants."""

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from generation.api.serializers.shapes import PageQuery, SelfURLSerializer, url
from generation.models import PromptVariant


class VariantQuery(PageQuery):
    q = serializers.CharField(help_text="Substring of the text or the slug.")
    tag = serializers.CharField(help_text="Only variants with this tag.")


class VariantSerializer(serializers.ModelSerializer[PromptVariant]):
    urls = serializers.SerializerMethodField()

    class Meta:
        model = PromptVariant
        fields = ["slug", "text", "tags", "revision", "created_at", "updated_at", "urls"]

    @extend_schema_field(SelfURLSerializer)
    def get_urls(self, variant: PromptVariant) -> dict[str, str]:
        return {"self": url(self, "variant", variant.slug)}
