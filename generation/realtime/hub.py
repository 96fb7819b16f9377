"""Clients that wait: one pub/sub connection per process and a table of waiters. Knows neither Django nor tensors.

A message is only a hint that something moved: whoever is woken asks for the truth elsewhere. Nothing is missed, because
the hub hears every channel all the time and remembers the last seconds: a move between a client's first answer and its
place in the table is found there, and a connection made later than that answer counts as a move.
"""

import asyncio
import contextlib
import json
import time
from collections import OrderedDict, defaultdict
from dataclasses import asdict, dataclass

import redis.asyncio
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

log = structlog.get_logger(__name__)

HEADER = "X-Retort-Wait"  # from a view to the shell; no client ever sends or sees it
# From a view to the shell, on an answer of 5xx: it says what became of the job, and is no failure of a moment.
SETTLED = "X-Retort-Settled"
# Key in the ASGI scope: a shell is there that reads the header. Its value: "" for a client's own request; for the
# shell's question what became of it, the method of that request.
SHELL = "retort.shell"
REQUEST_ID = (
    "retort.request_id"  # key in the ASGI scope: the shell's questions bear the id of the request
)
PATTERN = "retort:job:*"  # hints.CHANNEL_PREFIX
REMEMBER_SECONDS = 10.0
PING_SECONDS = 5.0  # a silent connection is asked; no answer for as long again, and it is given up
RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True)
class Wait:
    """What a view asks of the shell: hold the client until one of `words` comes on `channel`, `seconds` at most.

    then: path and query of the answer to give; while that answer asks to wait as well, the holding goes on. status: of
    the answer at hand if it is what the client gets in the end; 0: its own.
    """

    channel: str
    words: tuple[str, ...]
    seconds: float
    then: str
    status: int = 0

    def encode(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, header: str) -> "Wait":
        fields = json.loads(header)
        return cls(**{**fields, "words": tuple(fields["words"])})


class Hub:
    """`start` it in a running event loop; `closing` is set for good when the process should stop."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._task: asyncio.Task[None] | None = None
        self._waiters: defaultdict[str, set[asyncio.Future[bool]]] = defaultdict(set)
        self._recent: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._connected_at: float | None = None
        self.waiters = 0  # clients, however many words each waits for
        self.closing = False

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="waiting hub")

    @property
    def hears(self) -> bool:
        """Whether moves are being heard. If not, waiters have to ask by themselves."""
        return self._connected_at is not None

    async def moved(self, wait: Wait, *, since: float, timeout: float) -> bool:
        """Whether it may have moved since `since` (time.monotonic); False after `timeout` seconds of silence."""
        if self.closing or self._missed(wait, since):
            return True
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        keys = [f"{wait.channel} {word}" for word in wait.words]
        for key in keys:
            self._waiters[key].add(future)
        self.waiters += 1
        timer = asyncio.get_running_loop().call_later(timeout, _settle, future, False)
        try:
            return await future
        finally:
            timer.cancel()
            self.waiters -= 1
            for key in keys:
                self._waiters[key].discard(future)
                if not self._waiters[key]:
                    del self._waiters[key]

    def _missed(self, wait: Wait, since: float) -> bool:
        if self._connected_at is None:
            return False  # nothing is heard, so nothing can be known: the caller's timeout is the rhythm
        if self._connected_at > since or time.monotonic() - since > REMEMBER_SECONDS:
            return True
        return any(self._recent.get((wait.channel, word), -1.0) >= since for word in wait.words)

    def close(self) -> None:
        """Wake everybody for good. Safe from a signal handler by way of `loop.call_soon_threadsafe`."""
        self.closing = True
        self._wake_all()
        if self._task is not None:
            self._task.cancel()

    def _wake_all(self) -> None:
        for waiting in list(self._waiters.values()):
            for future in waiting:
                _settle(future, True)

    # --- the connection ---------------------------------------------------------------------------
    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                await self._listen()
            except (
                Exception
            ) as error:  # without the hub everybody who waits would wait longer than needed
                failures = 1 if self.hears else failures + 1
                if failures == 1:
                    log.warning("waiting_hub_lost_redis", error=str(error) or repr(error))
            finally:
                self._connected_at = None
            await asyncio.sleep(RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)])

    async def _listen(self) -> None:
        """Hear until the connection breaks."""
        # No retries inside: a connection that broke in silence is one whose messages are missing.
        client = redis.asyncio.Redis.from_url(
            self._url, socket_connect_timeout=1, decode_responses=True, retry=Retry(NoBackoff(), 0)
        )
        async with contextlib.aclosing(client), client.pubsub() as pubsub:
            await pubsub.psubscribe(PATTERN)
            asked = False
            while True:
                message = await pubsub.get_message(timeout=PING_SECONDS)
                if message is None:
                    if asked:
                        raise TimeoutError(f"silent for {2 * PING_SECONDS:g} s")
                    await pubsub.ping()
                    asked = True
                    continue
                asked = False
                if message["type"] == "psubscribe":
                    self._connected_at = time.monotonic()
                    log.info("waiting_hub_hears")
                    self._wake_all()  # whatever moved while nobody listened
                elif message["type"] == "pmessage":
                    self._heard(message["channel"], message["data"])

    def _heard(self, channel: str, word: str) -> None:
        now = time.monotonic()
        self._recent[channel, word] = now
        self._recent.move_to_end((channel, word))
        while self._recent and next(iter(self._recent.values())) < now - REMEMBER_SECONDS:
            self._recent.popitem(last=False)
        for future in self._waiters.get(f"{channel} {word}", ()):
            _settle(future, True)


def _settle(future: "asyncio.Future[bool]", moved: bool) -> None:
    if not future.done():
        future.set_result(moved)
