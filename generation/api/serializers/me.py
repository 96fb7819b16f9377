"""Serializers of the limits and usage of the request's key."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from generation.access import keys
from generation.models import APIKey


class KeyFactsSerializer(serializers.ModelSerializer[APIKey]):
    scopes = serializers.SerializerMethodField(
        help_text="Those of the key that the permissions of its owner cover now."
    )

    @extend_schema_field(serializers.ListField(child=serializers.ChoiceField(APIKey.Scope.choices)))
    def get_scopes(self, key: APIKey) -> list[str]:
        return [scope for scope in key.scopes if keys.is_covered(scope, key.owner)]

    class Meta:
        model = APIKey
        fields = ["name", "prefix", "scopes", "created_at", "expires_at", "weight"]


class StandingSerializer(serializers.Serializer[Any]):
    """Limits (null: no limit) and today's usage."""

    requests_per_minute = serializers.IntegerField(allow_null=True)
    images_per_day = serializers.IntegerField(allow_null=True)
    images_today = serializers.IntegerField(help_text="Images requested today.")
    device_seconds_per_day = serializers.IntegerField(allow_null=True)
    device_seconds_today = serializers.FloatField(help_text="Device seconds of today's jobs.")
    max_queued_jobs = serializers.IntegerField(allow_null=True)
    queued_jobs = serializers.IntegerField(help_text="Number of queued jobs.")


class MeSerializer(serializers.Serializer[Any]):
    username = serializers.CharField(help_text="Account that owns the key.")
    key = KeyFactsSerializer()
    requests_left = serializers.IntegerField(
        allow_null=True, help_text="Requests that are allowed now; null: no limit."
    )
    day = serializers.DateField(help_text="Day, in UTC, for which usage is counted.")
    of_key = StandingSerializer(help_text="For this key alone.")
    of_account = StandingSerializer(help_text="For all keys of the account and the page together.")
