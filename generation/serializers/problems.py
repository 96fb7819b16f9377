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


class ProblemSerializer(serializers.Serializer[Any]):
    """RFC 9457."""

    type = serializers.CharField(help_text="Always about:blank; go by `code`.")
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    code = serializers.CharField(help_text="A stable word for programs.")
    retryable = serializers.BooleanField(help_text="Whether the same request may succeed later.")
    instance = serializers.CharField(required=False, help_text="Id of this request in the logs.")
    parameter = serializers.CharField(required=False)
    errors = ProblemErrorSerializer(many=True, required=False)  # type: ignore[assignment]
