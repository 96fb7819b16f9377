"""Serializers of releases."""

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from generation.api.serializers.shapes import PageQuery, SelfURLSerializer, url
from generation.models import Release


class ReleaseQuery(PageQuery):
    kind = serializers.ChoiceField(Release.Kind.choices)
    status = serializers.ChoiceField(Release.Status.choices)


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
            "quality_floor",
            "canary_percent",
            "urls",
        ]

    def get_sizes(self, release: Release) -> list[str]:
        return [f"{width}x{height}" for width, height in release.image_sizes]

    @extend_schema_field(SelfURLSerializer)
    def get_urls(self, release: Release) -> dict[str, str]:
        return {"self": url(self, "release", release.name)}
