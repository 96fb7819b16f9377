"""Delivery of webhooks: take due deliveries, send many messages at once and record the responses.

A slow or dead receiver uses up only its own share of the messages in flight. A process has one run at a time.
Deliveries of a killed process are due again when their lease ends; receivers recognise repetitions by the id.
"""

import asyncio
import threading

import django.db
import structlog
from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings

from generation.infra import addresses, database, heartbeat, notifications, stalls
from generation.infra.watchdog import Watchdog
from generation.models import Delivery
from generation.webhooks import endpoints, outbox, payload
from generation.webhooks.outbox import Shares
from generation.webhooks.sender import Answer, Message, Sender

log = structlog.get_logger(__name__)

QUEUE = "webhooks"
TICK_SECONDS = 0.05  # maximum delay until a message or a stop is noticed
STOP_SECONDS = 2.0

_asked = threading.Event()  # set if deliveries may be due
_running = threading.Lock()


def begin() -> None:
    """Start the heartbeat, and send a message to deliver what is due."""
    watchdog = Watchdog(
        is_work_waiting=endpoints.are_due,
        send=notifications.deliver,
        task_seconds=stalls.unknown_bound(),  # one task hangs: only one sends
    )
    heartbeat.begin(QUEUE, device="", tick=watchdog.check)
    notifications.deliver()


def run() -> None:
    """Send until nothing is due. If another thread of this process is already sending, make it check again."""
    _asked.set()
    while _asked.is_set() and not heartbeat.stopping.is_set():
        if not _running.acquire(blocking=False):
            return
        try:
            async_to_sync(_send_due)()
        except django.db.Error as error:
            if not database.is_away(error):
                raise
            database.leave_read_only(error)
            # Deliveries in flight are due again when their lease ends, and the sweep sends the message.
            log.warning("database_away", error=str(error).strip())
            return
        finally:
            _running.release()


async def _send_due() -> None:
    async with Sender(_may_reach) as sender:
        await Run(sender).until_nothing_is_due()


def _may_reach(address: str) -> bool:
    return settings.WEBHOOK_PRIVATE_HOSTS or addresses.is_public(address)


class Run:
    """A run in one event loop. Rows are read and written in the calling thread."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._under_way: dict[asyncio.Task[Answer], Delivery] = {}
        self._shares = Shares()

    async def until_nothing_is_due(self) -> None:
        try:
            while not heartbeat.stopping.is_set():
                if _asked.is_set() and self._shares.free() > 0:
                    _asked.clear()
                    await self._begin()
                if not self._under_way and not _asked.is_set():
                    return
                await self._finish(TICK_SECONDS)
            await self._stop()
        finally:
            for task in self._under_way:
                task.cancel()
            await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _begin(self) -> None:
        taken, has_more = await sync_to_async(outbox.take)(self._shares)
        for delivery, message in await sync_to_async(_prepare)(taken):
            self._under_way[asyncio.create_task(self._send(message))] = delivery
        if has_more:
            _asked.set()

    async def _send(self, message: Message | None) -> Answer:
        if message is None:
            return Answer(error="It could not be rendered.")
        return await self._sender.send(message)

    async def _finish(self, seconds: float) -> None:
        """Wait for a response for at most `seconds`, then record all that have arrived."""
        if not self._under_way:
            return
        done, _ = await asyncio.wait(
            self._under_way, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        if done:
            ended = [(self._under_way.pop(task), task.result()) for task in done]
            await sync_to_async(_note)(ended)
            for delivery, _answer in ended:
                self._shares.end(delivery)
            _asked.set()  # capacity for others is free

    async def _stop(self) -> None:
        """Wait a short time for messages in flight, and give the others back."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + STOP_SECONDS
        while self._under_way and (left := deadline - clock()) > 0:
            await self._finish(left)
        for task in self._under_way:
            task.cancel()
        await sync_to_async(outbox.give_back)(list(self._under_way.values()))


def _note(ended: list[tuple[Delivery, Answer]]) -> None:
    outbox.note(ended)
    stalls.progressed()


def _prepare(taken: list[Delivery]) -> list[tuple[Delivery, Message | None]]:
    """Return the deliveries with their signed messages, None if the body could not be rendered."""
    payload.render(taken)
    ready = [delivery for delivery in taken if delivery.body]
    by_id = {message.id: message for message in payload.signed(ready)}
    return [(delivery, by_id.get(str(delivery.pk))) for delivery in taken]
