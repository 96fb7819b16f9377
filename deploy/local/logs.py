"""Logs of a home: the lines of all processes in chronological order, filtered and followed."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.local.home import Home

POLL_SECONDS = 0.3
SHOWN_ELSEWHERE = ("event", "level", "logger", "timestamp")


@dataclass(frozen=True)
class Line:
    """A line of a log. text: unchanged. at: its timestamp, or that of the previous line if it has none."""

    at: str
    process: str
    text: str
    fields: dict[str, Any]

    def has(self, word: str) -> bool:
        """Return whether an id or another word is in the line."""
        return word in self.text

    def for_people(self) -> str:
        if not self.fields:
            return f"{self.at[:23]:<23} {self.process:<14} {self.text}"
        facts = " ".join(
            f"{name}={value}" for name, value in self.fields.items() if name not in SHOWN_ELSEWHERE
        )
        level = str(self.fields.get("level", ""))
        event = self.fields.get("event", "")
        return f"{self.at[:23]:<23} {self.process:<14} {level:<8} {event} {facts}".rstrip()


def read(home: Home, names: list[str]) -> list[Line]:
    """Return the kept lines of these processes (no names: all) in chronological order."""
    lines: list[Line] = []
    for process in names or processes(home):
        lines += _parsed(process, _kept(home.logs / f"{process}.log"))
    return sorted(lines, key=lambda line: line.at)


def processes(home: Home) -> list[str]:
    """Return the names of the processes that have a log."""
    return sorted(path.stem for path in home.logs.glob("*.log"))


def follow(home: Home, names: list[str]) -> Iterator[Line]:
    """Yield lines written from now on. Does not end."""
    places: dict[Path, int] = {}
    is_first = True
    while True:
        for process in names or processes(home):
            path = home.logs / f"{process}.log"
            if is_first:
                places[path] = path.stat().st_size if path.exists() else 0
                continue
            written, places[path] = _since(path, places.get(path, 0))
            yield from _parsed(process, written)
        is_first = False
        time.sleep(POLL_SECONDS)


def _since(path: Path, place: int) -> tuple[list[str], int]:
    """Return the complete lines from this offset of a file, and the next offset. A rotated file starts at 0."""
    try:
        with path.open("rb") as file:
            if path.stat().st_size < place:
                place = 0
            file.seek(place)
            content = file.read()
    except OSError:
        return [], 0
    whole = content[: content.rfind(b"\n") + 1]
    return whole.decode(errors="replace").splitlines(), place + len(whole)


def _kept(log: Path) -> list[str]:
    """Return the lines of a log and of its rotated files, `web.log.2` before `web.log.1`."""
    older = sorted(
        (path for path in log.parent.glob(f"{log.name}.*") if path.suffix[1:].isdigit()),
        key=lambda path: -int(path.suffix[1:]),
    )
    lines: list[str] = []
    for path in (*older, log):
        if path.exists():
            lines += path.read_text(errors="replace").splitlines()
    return lines


def _parsed(process: str, texts: list[str]) -> Iterator[Line]:
    at = ""
    for text in filter(str.strip, texts):
        fields: Any = None
        if text.startswith("{"):
            try:
                fields = json.loads(text)
            except ValueError:
                fields = None
        if not isinstance(fields, dict):
            fields = {}
        at = str(fields.get("timestamp", at))
        yield Line(at, process, text, fields)
