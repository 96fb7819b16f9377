"""Serializers of problem documents (RFC 9457)."""

from typing import Any

from rest_framework import serializers


class ProblemErrorSerializer(serializers.Serializer[Any]):
    detail = serializers.CharField()
    code = serializers.CharField()
    parameter = serializers.CharField(required=False)
    pointer = serializers.CharField(required=False, help_text="JSON Pointer into the request body.")


class NearestSerializer(serializers.Serializer[Any]):
    variant = serializers.CharField(help_text="Slug.")
    text = serializers.CharField()
    score = serializers.FloatField(help_text="Cosine similarity of the two texts; 1: equal.")


class ProblemSerializer(serializers.Serializer[Any]):
    """Problem document (RFC 9457)."""

    type = serializers.URLField(help_text="URL of the page that explains the code.")
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    code = serializers.CharField(help_text="Stable code for programs.")
    retryable = serializers.BooleanField(help_text="Whether the same request may succeed later.")
    retry_after = serializers.IntegerField(
        required=False, help_text="Seconds, as in the header Retry-After; only if retryable."
    )
    instance = serializers.CharField(required=False, help_text="Id of the request in the logs.")
    parameter = serializers.CharField(required=False)
    job_id = serializers.UUIDField(
        required=False, help_text="Id of the job that the request is about."
    )
    trace_id = serializers.CharField(
        required=False, help_text="Trace id of the request's traceparent header."
    )
    nearest = NearestSerializer(
        many=True,
        required=False,
        help_text="For variant_not_found: the most similar prompt variants, best first.",
    )
    errors = ProblemErrorSerializer(many=True, required=False)  # type: ignore[assignment]
