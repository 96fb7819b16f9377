"""Parser of server-sent events, for clients in tests."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass
class Event:
    id: str
    name: str
    data: str

    def json(self) -> Any:
        return json.loads(self.data)


def parse(content: bytes) -> list[Event]:
    return list(events(content.decode().split("\n")))


def events(lines: Iterable[str]) -> Iterator[Event]:
    """Parse events by the rules of the HTML standard; comments and `retry` are skipped."""
    event_id, name, data = "", "message", []
    for line in lines:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "id":
            event_id = value
        elif field == "event":
            name = value
        elif field == "data":
            data.append(value)
        elif not line:
            if data:
                yield Event(event_id, name, "\n".join(data))
            name, data = "message", []
