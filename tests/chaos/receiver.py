"""A receiver that counts webhooks, and a listener to the messages that beat sends."""

import re
import threading
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass

import redis

from tests.receiver import Got, Receiver, Reply

TASK = "distillation.sweep"  # only beat sends it


class CountingReceiver(Receiver):
    """Keeps the id, job and type of each message, not its body."""

    def __init__(self) -> None:
        super().__init__()
        self.times: dict[str, int] = defaultdict(int)  # by the message's id
        self.messages: dict[str, tuple[str, str]] = {}  # (job, event) by the message's id
        self._lock = threading.Lock()
        self.reply = self._count

    def _count(self, got: Got) -> Reply:
        with self._lock:
            self.times[got.id] += 1
            self.messages[got.id] = (got.data["job"], got.data["type"].removeprefix("prediction."))
            self.got.clear()
        return Reply()


@dataclass(frozen=True)
class Tick:
    """A message of the schedule. origin: the process that sent it."""

    at: float
    origin: str


class Beats:
    """A thread that reads every command sent to Redis and keeps the origin of each message of TASK."""

    def __init__(self, client: redis.Redis) -> None:
        self.ticks: list[Tick] = []
        self._client = client
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            with suppress(redis.RedisError, OSError), self._client.monitor() as monitor:
                while not self._ended.is_set():
                    seen = monitor.next_command()
                    command = seen["command"]
                    if command.startswith("LPUSH") and TASK in command:
                        self.ticks.append(Tick(float(seen["time"]), origin(command)))
            self._ended.wait(0.5)

    def stop(self) -> None:
        self._ended.set()


def origin(command: str) -> str:
    """Return the header `origin` of a Celery message in a command `LPUSH queue message`."""
    found = re.search(r"origin\W+([\w@.-]+)", command)
    return found[1] if found else ""
