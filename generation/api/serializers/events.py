"""Serializers of a job's event stream."""

import re
from typing import Any

from rest_framework import serializers

from generation.api.serializers.shapes import Strict

EVENT_ID = re.compile(r"[0-9]{1,19}-[0-9]{1,19}(-end)?")  # no more digits than Redis accepts


class EventsQuery(Strict):
    last_event_id = serializers.RegexField(
        f"^{EVENT_ID.pattern}$",
        allow_blank=True,
        default="",
        help_text="For clients that cannot send the header Last-Event-ID, which takes precedence.",
    )
    previews = serializers.BooleanField(
        default=True, help_text="Whether to send previews of the image."
    )


class SentEventSerializer(serializers.Serializer[Any]):
    """One server-sent event."""

    id = serializers.CharField(required=False)
    event = serializers.CharField(required=False, help_text="Type of the event.")
    data = serializers.CharField(required=False)  # type: ignore[assignment]
