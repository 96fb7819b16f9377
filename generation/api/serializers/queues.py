"""Serializers of queues of jobs."""

from typing import Any

from rest_framework import serializers

from generation.api.serializers.shapes import Strict
from generation.jobs import pausing


class PauseSerializer(Strict):
    reason = serializers.CharField(
        max_length=200, default="", allow_blank=True, help_text="Note for other operators."
    )


class QueueStateSerializer(serializers.Serializer[Any]):
    name = serializers.ChoiceField(pausing.NAMES)
    status = serializers.ChoiceField(
        (pausing.RUNNING, pausing.DRAINING, pausing.PAUSED),
        help_text="draining: it is paused, and earlier jobs still run.",
    )
    queued = serializers.IntegerField(help_text="Number of queued jobs.")
    running = serializers.IntegerField(help_text="Number of running jobs.")
    workers = serializers.IntegerField(help_text="Number of live workers without a fault.")
    paused_at = serializers.DateTimeField(allow_null=True)
    paused_by = serializers.CharField()
    reason = serializers.CharField()
