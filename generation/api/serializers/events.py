"""What a client says that watches a job, and what it gets."""

import re
from typing import Any

from rest_framework import serializers

from generation.api.serializers.shapes import Strict

EVENT_ID = re.compile(r"[0-9]{1,19}-[0-9]{1,19}(-end)?")  # not more digits than Redis reads


class EventsQuery(Strict):
    last_event_id = serializers.RegexField(
        f"^{EVENT_ID.pattern}$",
        required=False,
        allow_blank=True,
        default="",
        help_text="As the header Last-Event-ID, which wins, for clients that cannot send one.",
    )
    previews = serializers.BooleanField(
        required=False, default=True, help_text="Whether to send pictures of the image forming."
    )


class SentEventSerializer(serializers.Serializer[Any]):
    """One server-sent event."""

    id = serializers.CharField(required=False)
    event = serializers.CharField(required=False, help_text="Its type.")
    data = serializers.CharField(required=False)  # type: ignore[assignment]
