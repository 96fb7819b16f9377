"""Mixed jobs at a steady rate: each kind is a client's scenario, from its first request to its job's end."""

import asyncio
import base64
import hashlib
import itertools
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.chaos.client import Client, GaveUp
from tests.chaos.log import TERMINAL, ClientLog

GIVE_UP_SECONDS = 900.0  # long enough for a slow machine
IDENTICAL = 4
FORMATS = ("webp", "png", "jpeg")


@dataclass
class World:
    """State that the clients share. numbers: for seeds that were not used before."""

    base_url: str
    keys: list[str]
    limited: str
    variants: list[str]
    receiver_url: str
    draw: random.Random
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    known: list[tuple[str, dict[str, Any]]] = field(
        default_factory=list
    )  # (key, body) of finished seeded jobs

    def body(self, **fields: Any) -> dict[str, Any]:
        return {"variant": self.draw.choice(self.variants), **fields}

    def seed(self) -> int:
        return 10 * next(self.numbers)


Scenario = Callable[[Client, World], Awaitable[None]]


def _idem() -> str:
    return uuid.uuid4().hex


async def fresh(client: Client, world: World) -> None:
    body = world.body(n=world.draw.choice((1, 1, 3)), output_format=world.draw.choice(FORMATS))
    if job := await client.submit(body, idem=_idem()):
        await _end(client, world, job)


async def seeded(client: Client, world: World) -> None:
    body = world.body(seed=world.seed())
    key = world.keys[0]
    if job := await client.submit(body, idem=_idem(), wait=20):
        await _end(client, world, job)
        world.known = [*world.known[-200:], (key, body)]


async def stored(client: Client, world: World) -> None:
    """Send a request that stored images answer, unless they were lost."""
    body = world.draw.choice(world.known)[1] if world.known else world.body(seed=world.seed())
    if job := await client.submit(body, idem=_idem(), wait=20):
        await _end(client, world, job)


async def identical(client: Client, world: World) -> None:
    body = world.body(seed=world.seed())

    async def one() -> None:
        if job := await client.submit(body, idem=_idem()):
            await _end(client, world, job)

    await asyncio.gather(*(one() for _ in range(IDENTICAL)))


async def repeated(client: Client, world: World) -> None:
    """Send the same request three times at once with one idempotency key."""
    idem, body = _idem(), world.body(n=2)
    jobs = await asyncio.gather(*(client.submit(body, idem=idem) for _ in range(3)))
    if jobs[0]:
        await _end(client, world, jobs[0])


async def canceled(client: Client, world: World) -> None:
    if job := await client.submit(world.body(n=3), idem=_idem()):
        await asyncio.sleep(world.draw.choice((0, 0, 0.05, 0.5)))
        answer = await client.send("POST", f"/v1/jobs/{job['id']}/cancel")
        if answer.status == 200:
            client.reported(answer.json())
        await client.ended(job["id"])


async def deleted(client: Client, world: World) -> None:
    if job := await client.submit(world.body(n=2), idem=_idem()):
        if world.draw.random() < 0.6:
            await client.ended(job["id"])
        answer = await client.send("DELETE", f"/v1/jobs/{job['id']}")
        if answer.status == 204:
            client.note("deleted", job=job["id"])


async def streamed(client: Client, world: World) -> None:
    if job := await client.submit(world.body(), idem=_idem()):
        await client.watched(job["id"])


async def hooked(client: Client, world: World) -> None:
    body = world.body(n=2, webhook=world.receiver_url)
    if job := await client.submit(body, idem=_idem(), webhook=True):
        await client.ended(job["id"])


async def described(client: Client, world: World) -> None:
    """Request a file with metadata, which belongs to its job alone."""
    body = world.body(seed=world.seed(), metadata=True, output_format="png")
    if job := await client.submit(body, idem=_idem()):
        await _end(client, world, job)


async def openai(client: Client, world: World) -> None:
    idem, body = _idem(), world.body(seed=world.seed())
    answer = await client.send(
        "POST", "/v1/images/generations", body=body, headers={"Idempotency-Key": idem}
    )
    job_id = answer.headers.get("X-Job-Id", "")
    if answer.status == 200:
        client.accepted(job_id, idem=idem)
        found = tuple(
            hashlib.sha256(base64.b64decode(image["b64_json"])).hexdigest()
            for image in answer.json()["data"]
        )
        client.note("reported", job=job_id, status="succeeded", sha256=found)
    elif job_id:
        client.accepted(job_id, idem=idem)
        await client.ended(job_id)


async def replicate(client: Client, world: World) -> None:
    own = f"chaos-{_idem()}"
    body = {"input": world.body(num_outputs=2), "webhook": world.receiver_url}
    answer = await client.send("PUT", f"/v1/predictions/{own}", body=body)
    if answer.status not in (200, 201, 202):
        return
    prediction = answer.json()
    client.accepted(prediction["job"], idem=own, n=2, webhook=True)
    status = prediction["phase"]
    while status not in TERMINAL:
        answer = await client.send("GET", f"/v1/predictions/{own}?wait=20")
        status = answer.json().get("phase", "")
        if not status:
            return
    client.note("reported", job=prediction["job"], status=status)


async def limited(client: Client, world: World) -> None:
    """Submit with a key that reaches its quota; most requests are refused and must not count."""
    if job := await client.submit(world.body(n=2), idem=_idem()):
        await client.ended(job["id"])


SCENARIOS: dict[str, tuple[int, Scenario]] = {  # with the weight of each
    "fresh": (5, fresh),
    "seeded": (4, seeded),
    "stored": (2, stored),
    "identical": (1, identical),
    "repeated": (1, repeated),
    "canceled": (2, canceled),
    "deleted": (2, deleted),
    "streamed": (2, streamed),
    "hooked": (2, hooked),
    "described": (1, described),
    "openai": (2, openai),
    "replicate": (2, replicate),
    "limited": (1, limited),
}


async def _end(client: Client, world: World, job: dict[str, Any]) -> None:
    job = await client.ended(job["id"])
    if job.get("status") == "succeeded" and world.draw.random() < 0.3:
        await client.fetch(job)


class Load:
    """Scenarios that begin at a steady rate, independent of earlier ones. Use in one event loop."""

    def __init__(self, world: World, log: ClientLog) -> None:
        self._world = world
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()
        self.begun = 0

    async def run(self, ended: asyncio.Event, *, rate: float) -> None:
        """Begin `rate` scenarios per second until the event is set, and return when all have ended."""
        began = time.monotonic()
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            while not ended.is_set():
                self._begin(session)
                pause = began + self.begun / rate - time.monotonic()
                with suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), max(0.0, pause))
            await asyncio.gather(*self._tasks)

    async def saturate(self, *, seconds: float, clients: int) -> float:
        """Return the scenarios per second that so many clients complete, each one after another."""
        began = time.monotonic()
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def loop() -> None:
                while time.monotonic() < began + seconds:
                    await self._begin(session)

            await asyncio.gather(*(loop() for _ in range(clients)))
        return self.begun / (time.monotonic() - began)

    def _begin(self, session: aiohttp.ClientSession) -> "asyncio.Task[None]":
        until = time.monotonic() + GIVE_UP_SECONDS
        draw = self._world.draw
        (kind,) = draw.choices(list(SCENARIOS), [weight for weight, _ in SCENARIOS.values()])
        key = self._world.limited if kind == "limited" else draw.choice(self._world.keys)
        client = Client(session, self._world.base_url, key, kind=kind, log=self._log, until=until)
        task = asyncio.create_task(self._run_scenario(client, SCENARIOS[kind][1]))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.begun += 1
        return task

    async def _run_scenario(self, client: Client, scenario: Scenario) -> None:
        try:
            await scenario(client, self._world)
        except GaveUp as error:
            client.note("gave-up", detail=str(error)[:300])
        except Exception as error:  # an unreadable answer is a violation, not the end of the round
            client.note("gave-up", detail=repr(error)[:300])
