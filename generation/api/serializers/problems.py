"""Refusals, as RFC 9457 has them."""

from typing import Any

from rest_framework import serializers


class ProblemErrorSerializer(serializers.Serializer[Any]):
    detail = serializers.CharField()
    code = serializers.CharField()
    parameter = serializers.CharField(required=False)
    pointer = serializers.CharField(
        required=False, help_text="JSON Pointer into the request's body."
    )


class NearestSerializer(serializers.Serializer[Any]):
    variant = serializers.CharField(help_text="Slug.")
    text = serializers.CharField()
    score = serializers.FloatField(help_text="The cosine of the two texts; 1: the same.")


class ProblemSerializer(serializers.Serializer[Any]):
    """RFC 9457."""

    type = serializers.URLField(help_text="The page that explains the code.")
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    code = serializers.CharField(help_text="A stable word for programs.")
    retryable = serializers.BooleanField(help_text="Whether the same request may succeed later.")
    retry_after = serializers.IntegerField(
        required=False, help_text="Seconds, as in the header; of a retryable one."
    )
    instance = serializers.CharField(required=False, help_text="Id of this request in the logs.")
    parameter = serializers.CharField(required=False)
    job_id = serializers.UUIDField(
        required=False, help_text="Of the job that the request is about."
    )
    trace_id = serializers.CharField(
        required=False, help_text="Of the request's traceparent, if it had one."
    )
    nearest = NearestSerializer(
        many=True,
        required=False,
        help_text="Of variant_not_found: the prompt variants nearest to the text, nearest first.",
    )
    errors = ProblemErrorSerializer(many=True, required=False)  # type: ignore[assignment]
