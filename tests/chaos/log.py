"""Log of the clients' events, a line each. The checker compares it with the rows."""

import json
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

TERMINAL = ("succeeded", "failed", "canceled")


@dataclass(frozen=True)
class Seen:
    """An event of one client.

    event: accepted, reported (a status), fetched, refused, broken (a connection), deleted or gave-up. sha256: of the
    job's files in order, or of the fetched one. idem: the idempotency key or the client's own id. n: requested images.
    """

    event: str
    kind: str
    job: str = ""
    status: str = ""
    sha256: tuple[str, ...] = ()
    idem: str = ""
    n: int = 0
    webhook: bool = False
    http: int = 0
    code: str = ""
    retry_after: str = ""
    retryable: bool | None = None
    detail: str = ""
    at: float = field(default_factory=time.time)


class ClientLog:
    """Events in memory, and in a file for people."""

    def __init__(self, path: Path | None = None, seen: Iterable[Seen] = ()) -> None:
        self.seen: list[Seen] = list(seen)
        self._lock = threading.Lock()
        self._file = path.open("a") if path else None

    def add(self, seen: Seen) -> None:
        with self._lock:
            self.seen.append(seen)
            if self._file:
                plain = {name: value for name, value in asdict(seen).items() if value}
                self._file.write(json.dumps(plain) + "\n")

    def of(self, *events: str) -> Sequence[Seen]:
        return [seen for seen in self.seen if seen.event in events]

    def close(self) -> None:
        if self._file:
            self._file.close()
