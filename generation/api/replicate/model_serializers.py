"""Serializers of models and versions in Replicate's format."""

from typing import Any

from rest_framework import serializers

from generation.api.replicate.versions import schema
from generation.api.serializers.shapes import url
from generation.models import Release
from generation.webhooks.predictions import OWNER


class VersionSerializer(serializers.Serializer[Release]):
    id = serializers.CharField(help_text="SHA-256 of the release's manifest.")
    created_at = serializers.DateTimeField()
    cog_version = serializers.CharField(help_text="Always empty: not made with Cog.")
    openapi_schema = serializers.DictField(help_text="Schemas Input and Output.")

    def to_representation(self, instance: Release) -> dict[str, Any]:
        return {
            "id": instance.manifest_sha256,
            "created_at": instance.registered_at,
            "cog_version": "",
            "openapi_schema": schema(instance),
        }


class ReplicateModelSerializer(serializers.Serializer[Release]):
    """A model, from its current release; the context has its `name`."""

    url = serializers.URLField()
    owner = serializers.CharField()
    name = serializers.CharField()
    description = serializers.CharField()
    visibility = serializers.ChoiceField(["private"])
    github_url = serializers.URLField(allow_null=True)
    paper_url = serializers.URLField(allow_null=True)
    license_url = serializers.URLField(allow_null=True)
    run_count = serializers.IntegerField(help_text="Always 0.")
    cover_image_url = serializers.URLField(allow_null=True)
    default_example = serializers.DictField(allow_null=True)
    latest_version = VersionSerializer()

    def to_representation(self, instance: Release) -> dict[str, Any]:
        name = self.context["name"]
        nothing = ("github_url", "paper_url", "license_url", "cover_image_url", "default_example")
        return {
            "url": url(self, "replicate-model", OWNER, name),
            "owner": OWNER,
            "name": name,
            "description": f"The release {instance.name}.",
            "visibility": "private",
            "run_count": 0,
            **dict.fromkeys(nothing),
            "latest_version": VersionSerializer().to_representation(instance),
        }
