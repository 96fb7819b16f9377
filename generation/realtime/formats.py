"""How the events of a job look to those who watch it, by route. Pure functions of JSON; knows no connection.

A style serves one client. It gets the body of Django's answers and the events of the job's stream (kinds: status,
progress, preview; see `generation.infra.events`), and makes of each an event or nothing.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Sent:
    """name: its type for the client; data: JSON."""

    name: str
    data: bytes


def progress_bar(percent: int, steps: int) -> str:
    """As clients of Replicate read it in logs."""
    return f"{percent:3d}%|{'#' * (percent // 10):<10}| {steps * percent // 100}/{steps}"


class Style(Protocol):
    is_resumed: bool  # its clients come back with the id of the last event; others get no ids

    def __init__(self, options: Mapping[str, Any]) -> None:
        """options: what the view gave to `views.streams.answer`."""

    def snapshot(self, body: bytes) -> Sent | None:
        """The whole state: at the beginning, and wherever something may have been missed."""

    def event(self, kind: str, data: str) -> Sent | None:
        """One of the stream. data: JSON."""

    def final(self, status: int, body: bytes) -> Sequence[Sent]:
        """The last ones. status: of the HTTP answer that `body` belongs to; 400 and above: a refusal."""

    def knows(self, body: bytes) -> bool:
        """Whether the client has been told what this answer says; if not, it gets it as a snapshot."""


class JobStyle:
    """/v1/jobs/{id}/events: the job as it is read, then increments, and the job again, named by its last status."""

    is_resumed = True

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._kinds: list[str] = options["kinds"]
        self._told: tuple[str, int] | None = None  # status, attempt

    def snapshot(self, body: bytes) -> Sent:
        self._told = _state(json.loads(body))
        return Sent("snapshot", body)

    def event(self, kind: str, data: str) -> Sent | None:
        if kind not in self._kinds:
            return None
        if kind == "status":
            state = _state(json.loads(data))
            if state == self._told:
                return None
            self._told = state
        return Sent(kind, data.encode())

    def final(self, status: int, body: bytes) -> Sequence[Sent]:
        # A refusal is a problem like every other, but this client can see no HTTP status any more.
        return [Sent(json.loads(body)["status"] if status < 400 else "problem", body)]

    def knows(self, body: bytes) -> bool:
        state = _state(json.loads(body))
        if self._told is None:  # the client came back, and was told before
            self._told = state
        return state == self._told


def _state(job: Mapping[str, Any]) -> tuple[str, int]:
    return job["status"], job["attempt"]


class OpenAIStyle:
    """/v1/images/generations with `stream`: partial images, then the completed one, or the error.

    options: `partial_images`, how many may be sent, and `facts`, what every event says beside its picture
    (created_at, size, quality, background, output_format). Django's last answer is the whole completed event, or an
    OpenAI error. OpenAI's client takes an id, or a `retry`, for an event of its own.
    """

    is_resumed = False

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._left: int = options["partial_images"]
        self._facts: Mapping[str, Any] = options["facts"]
        self._sent = 0

    def snapshot(self, body: bytes) -> None:
        return None

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
            "output_format": preview["format"],  # of this file, which is no more than a preview
        }
        self._sent += 1
        return Sent(name, json.dumps(shown).encode())

    def final(self, status: int, body: bytes) -> Sequence[Sent]:
        return [Sent("image_generation.completed" if status < 400 else "error", body)]

    def knows(self, body: bytes) -> bool:
        return True


class ReplicateStyle:
    """/v1/predictions/{id}/stream: logs, then the links one by one and that it is done, or what went wrong.

    options: `steps` of the job.
    """

    is_resumed = True

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._steps: int = options["steps"]

    def snapshot(self, body: bytes) -> None:
        return None

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

    def knows(self, body: bytes) -> bool:
        return True


STYLES: dict[str, type[Style]] = {
    "job": JobStyle,
    "openai": OpenAIStyle,
    "replicate": ReplicateStyle,
}
