"""Formats of a job's server-sent events, one per route.

A style serves one client. It turns the bodies of Django's answers and the entries of the job's stream (kinds: status,
progress, preview; see `generation.infra.events`) into events.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Sent:
    """A server-sent event. name: its type; data: JSON or text."""

    name: str
    data: bytes


def progress_bar(percent: int, steps: int) -> str:
    """Return a progress bar in the format that clients of Replicate parse in logs."""
    return f"{percent:3d}%|{'#' * (percent // 10):<10}| {steps * percent // 100}/{steps}"


class Style(Protocol):
    """Base of the styles. The default `snapshot` and `is_current` are for a style without snapshots."""

    is_resumed: bool = True  # clients reconnect with the id of the last event

    def __init__(self, options: Mapping[str, Any]) -> None:
        """options: passed by the view to `views.streams.answer`."""

    def snapshot(self, body: bytes) -> Sent | None:
        """Return the whole state, which is sent first and whenever an event may have been lost."""
        return None

    def event(self, kind: str, data: str) -> Sent | None:
        """Return the event for an entry of the stream. data: JSON."""

    def final(self, status: int, body: bytes) -> Sequence[Sent]:
        """Return the last events. status: HTTP status of the body's response; 400 and above is an error."""

    def is_current(self, body: bytes) -> bool:
        """Return whether the client has received the state in this body; if not, it is sent a snapshot."""
        return True


class JobStyle(Style):
    """/v1/jobs/{id}/events: the job, then changes, then the job again in an event named by its last status."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._kinds: list[str] = options["kinds"]
        self._sent_state: tuple[str, int] | None = None  # status, attempt

    def snapshot(self, body: bytes) -> Sent:
        self._sent_state = _state(json.loads(body))
        return Sent("snapshot", body)

    def event(self, kind: str, data: str) -> Sent | None:
        if kind not in self._kinds:
            return None
        if kind == "status":
            state = _state(json.loads(data))
            if state == self._sent_state:
                return None
            self._sent_state = state
        return Sent(kind, data.encode())

    def final(self, status: int, body: bytes) -> Sequence[Sent]:
        # A problem is an event too, since the HTTP status is already sent.
        return [Sent(json.loads(body)["status"] if status < 400 else "problem", body)]

    def is_current(self, body: bytes) -> bool:
        state = _state(json.loads(body))
        if self._sent_state is None:  # the client reconnected and has the state
            self._sent_state = state
        return state == self._sent_state


def _state(job: Mapping[str, Any]) -> tuple[str, int]:
    return job["status"], job["attempt"]


class OpenAIStyle(Style):
    """/v1/images/generations with `stream`: partial images, then the completed one, or the error.

    options: `partial_images`, their maximum, and `facts`, the other fields of each event (created_at, size, quality,
    background, output_format). Django's last response is the complete last event, or an OpenAI error. It sends no ids
    and no `retry`, which OpenAI's client takes for events.
    """

    is_resumed = False

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._left: int = options["partial_images"]
        self._facts: Mapping[str, Any] = options["facts"]
        self._sent = 0

    def event(self, kind: str, data: str) -> Sent | None:
        if kind != "preview" or self._sent >= self._left:
            return None
        preview = json.loads(data)
        name = "image_generation.partial_image"
        shown = {
            "type": name,
            "b64_json": preview["b64_json"],
            "partial_image_index": self._sent,
            **self._facts,
            "output_format": preview["format"],  # of the preview, not of the image
        }
        self._sent += 1
        return Sent(name, json.dumps(shown).encode())

    def final(self, status: int, body: bytes) -> Sequence[Sent]:
        return [Sent("image_generation.completed" if status < 400 else "error", body)]


class ReplicateStyle(Style):
    """/v1/predictions/{id}/stream: logs, then one event per link and `done`, or the error.

    options: `steps`, those of the job.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._steps: int = options["steps"]

    def event(self, kind: str, data: str) -> Sent | None:
        if kind != "progress":
            return None
        percent, total = json.loads(data)["percent"], self._steps
        return Sent("logs", progress_bar(percent, total).encode())

    def final(self, status: int, body: bytes) -> Sequence[Sent]:
        last = json.loads(body)
        if status >= 400:
            return [Sent("error", str(last["detail"]).encode())]
        if last["status"] == "failed":
            return [Sent("error", str(last["error"]).encode())]
        output = [Sent("output", link.encode()) for link in last["output"] or ()]
        reason = {} if last["status"] == "succeeded" else {"reason": "canceled"}
        return [*output, Sent("done", json.dumps(reason).encode())]


STYLES: dict[str, type[Style]] = {
    "job": JobStyle,
    "openai": OpenAIStyle,
    "replicate": ReplicateStyle,
}
