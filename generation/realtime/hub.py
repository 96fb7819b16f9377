"""Hub of waiting clients: one Redis pub/sub connection per process and a table of waiters.

A message only reports that a job changed; the waiter then reads its row. No change is missed: the hub receives all
channels and keeps the messages of the last seconds, where a change between a client's first answer and its entry in the
table is found. A connection made after that answer counts as a change.
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

HEADER = "X-Retort-Wait"  # from a view to the shell; clients neither send nor see it
# From a view to the shell, on a 5xx answer that is the job's result, not a temporary failure.
SETTLED = "X-Retort-Settled"
# Key in the ASGI scope, present if a shell reads the headers. "" for a client's own request; for a repeated request the
# method of the client's request.
SHELL = "retort.shell"
REQUEST_ID = "retort.request_id"  # key in the ASGI scope: repeated requests keep the request's id
# Key in the ASGI scope of requests to /health/ready and /metrics: threads, busy and stuck_seconds of the web process.
LOAD = "retort.load"
PATTERN = "retort:job:*"  # events.CHANNEL_PREFIX
REMEMBER_SECONDS = 10.0
PING_SECONDS = 5.0  # silence before a ping; after twice this time the connection is closed
RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True)
class Wait:
    """A view's instruction to the shell: hold the client until one of `words` is published on `channel`.

    seconds: maximum. then: path and query of the GET for the final answer; while that has the header too, the client
    is held further. status: HTTP status of this answer if it is sent at the deadline; 0 = unchanged.
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
    """Waiting clients of this process. Call `start` in a running event loop. closing: whether the process stops."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._task: asyncio.Task[None] | None = None
        self._waiters: defaultdict[str, set[asyncio.Future[bool]]] = defaultdict(set)
        self._recent: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._connected_at: float | None = None
        self.waiters = 0  # clients, not words
        self.closing = False

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="waiting hub")

    @property
    def is_connected(self) -> bool:
        """Return whether the hub receives messages. If not, waiters must poll."""
        return self._connected_at is not None

    async def moved(self, wait: Wait, *, since: float, timeout: float) -> bool:
        """Return True when the job may have changed after `since` (time.monotonic), False after `timeout` seconds."""
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
            return False  # not connected: the caller polls at its timeout
        if self._connected_at > since or time.monotonic() - since > REMEMBER_SECONDS:
            return True
        return any(self._recent.get((wait.channel, word), -1.0) >= since for word in wait.words)

    def close(self) -> None:
        """Wake all waiters before the process stops. In a signal handler use `loop.call_soon_threadsafe`."""
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
            ) as error:  # any error: without the hub clients would wait longer than necessary
                failures = 1 if self.is_connected else failures + 1
                if failures == 1:
                    log.warning("waiting_hub_lost_redis", error=str(error) or repr(error))
            finally:
                self._connected_at = None
            await asyncio.sleep(RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)])

    async def _listen(self) -> None:
        """Receive messages until the connection breaks."""
        # Without retries, since messages of a broken connection are lost and the waiters must be woken.
        client = redis.asyncio.Redis.from_url(
            self._url, socket_connect_timeout=1, decode_responses=True, retry=Retry(NoBackoff(), 0)
        )
        async with contextlib.aclosing(client), client.pubsub() as pubsub:
            await pubsub.psubscribe(PATTERN)
            is_pinged = False
            while True:
                message = await pubsub.get_message(timeout=PING_SECONDS)
                if message is None:
                    if is_pinged:
                        raise TimeoutError(f"silent for {2 * PING_SECONDS:g} s")
                    await pubsub.ping()
                    is_pinged = True
                    continue
                is_pinged = False
                if message["type"] == "psubscribe":
                    self._connected_at = time.monotonic()
                    log.info("waiting_hub_subscribed")
                    self._wake_all()  # for changes while the hub was disconnected
                elif message["type"] == "pmessage":
                    self._receive(message["channel"], message["data"])

    def _receive(self, channel: str, word: str) -> None:
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
