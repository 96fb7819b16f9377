"""A round: jobs at a steady rate, one or two faults meanwhile, and the checker's result."""

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg2

from tests.acceptance.stack import wait_for
from tests.chaos import checker
from tests.chaos.checker import check
from tests.chaos.evidence import TRIGGER, Evidence, Violation, age
from tests.chaos.faults.fault import Fault
from tests.chaos.load import Load, World
from tests.chaos.log import ClientLog
from tests.chaos.receiver import Beats
from tests.chaos.servers import PostgresServer
from tests.chaos.stack import Site

LOOK_SECONDS = 5.0  # between two checks of the invariants that hold at any time
SAMPLE_SECONDS = 0.5
DELIVERED_SECONDS = 120.0  # a delivery whose process was killed is sent again after 30
DRAIN_SECONDS = 600.0
GRACE_SECONDS = 3.0  # for requests that were in progress when the fault began
AT_ONCE = (
    10  # requests that must be answered after each round: more than the threads of the web process
)


@dataclass(frozen=True)
class Timing:
    """Seconds before, during and after the fault, and scenarios per second."""

    before: float
    during: float
    after: float
    rate: float


@dataclass
class Result:
    """Result of a round. recovered: seconds from the end of the fault to the first computed success."""

    name: str
    jobs: int = 0
    lost: int = 0
    doubled: int = 0
    failed: int = 0
    violations: list[dict[str, str]] = field(default_factory=list)
    recovered: float | None = None
    longest_transaction: float = 0.0
    refused: dict[str, int] = field(default_factory=dict)
    broken: int = 0  # broken connections
    ticks: int = 0  # messages of the schedule that were seen
    began: float = 0.0  # begin of the fault, seconds since the round's begin
    ended: float = 0.0
    successes: list[float] = field(default_factory=list)  # seconds since the round's begin
    seconds: float = 0.0

    @property
    def is_good(self) -> bool:
        return not self.violations


class Transactions:
    """A thread that looks for the longest open transaction."""

    def __init__(self, postgres: PostgresServer) -> None:
        self.longest = 0.0
        self._postgres = postgres
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            with suppress(psycopg2.Error):
                ((seconds,),) = self._postgres.query(
                    "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0) FROM pg_stat_activity"
                    " WHERE backend_type = 'client backend' AND application_name <> 'chaos'"
                )
                self.longest = max(self.longest, float(seconds))

    def stop(self) -> float:
        self._ended.set()
        self._thread.join()
        return self.longest


class Rounds:
    """Rounds on one site. A violation is reported in the round that showed it first."""

    def __init__(self, site: Site, world: World, folder: Path, *, seed: int) -> None:
        self.site = site
        self.world = world
        self._folder = folder
        self._seed = seed
        self._known: set[tuple[str, str]] = set()
        site.postgres.query(TRIGGER)

    def run(self, name: str, faults: Sequence[Fault], timing: Timing) -> Result:
        self.world.draw = random.Random(f"{self._seed}/{name}")
        log = ClientLog(self._folder / f"{name.replace(' ', '-').replace(',', '')}.jsonl")
        beats = Beats(self.site.redis.client())
        evidence = self._evidence(log, beats)
        transactions = Transactions(self.site.postgres)
        found: dict[tuple[str, str], Violation] = {}
        is_over = threading.Event()
        checking = threading.Thread(
            target=self._check_repeatedly, args=(evidence, found, is_over), daemon=True
        )
        checking.start()
        result = Result(name)
        began = time.time()
        try:
            asyncio.run(self._load(faults, timing, log, result, began))
            self._drain()
            self._probe(found)
        finally:
            is_over.set()
            checking.join()
            beats.stop()
            result.longest_transaction = transactions.stop()
            log.close()
        violations = check(evidence, checker.AT_THE_END)
        self._sweep()
        violations += check(evidence, checker.OF_FILES)
        for violation in violations:
            found.setdefault((violation.invariant, violation.subject), violation)
        for fault in faults:
            if not fault.took_effect(self.site):
                found["faults take effect", fault.name] = Violation(
                    "faults take effect", fault.name, "It had no effect: the round proves nothing."
                )
        if all(fault.group == "clients" for fault in faults):
            self._check_other_clients(log, result, began, found)
        result.ticks = len(beats.ticks)
        self._judge(result, found, log, began)
        return result

    # --- steps ------------------------------------------------------------------------------------
    async def _load(
        self, faults: Sequence[Fault], timing: Timing, log: ClientLog, result: Result, began: float
    ) -> None:
        during = max(timing.during, *(fault.seconds for fault in faults))
        enough = asyncio.Event()
        load = asyncio.create_task(Load(self.world, log).run(enough, rate=timing.rate))
        await asyncio.sleep(timing.before)
        result.began = time.time() - began
        begun: list[Fault] = []
        try:
            # Faults by people begin before those of servers, and end after them.
            for fault in sorted(faults, key=lambda fault: fault.group != "people"):
                begun.append(fault)
                await asyncio.to_thread(fault.begin, self.site)
            await asyncio.sleep(during)
        finally:
            for fault in reversed(begun):
                await asyncio.to_thread(fault.end, self.site)
        result.ended = time.time() - began
        await asyncio.sleep(timing.after)
        enough.set()
        await load

    def _drain(self) -> None:
        """Wait for the ends of all jobs and deliveries. Those without an end are violations."""

        def none(sql: str) -> bool:
            with suppress(psycopg2.Error):
                return self.site.postgres.query(sql) == [(0,)]
            return False

        open_jobs = "SELECT count(*) FROM generation_job WHERE finished_at IS NULL"
        with suppress(AssertionError):
            wait_for(lambda: none(open_jobs), "all jobs have ended", seconds=DRAIN_SECONDS)
        pending = (
            "SELECT count(*) FROM generation_delivery d JOIN generation_job j ON j.id = d.job_id"
            " WHERE d.status = 'pending' AND j.purged_at IS NULL"
        )
        with suppress(AssertionError):
            wait_for(lambda: none(pending), "all is delivered", seconds=DELIVERED_SECONDS)

    def _sweep(self) -> None:
        """Sweep the files as in a night after all of them became old enough."""
        age(self.site.media, checker.ORPHAN_SECONDS + 1)
        self.site.stack.manage("retention", "--all-files")

    def _probe(self, found: dict[tuple[str, str], Violation]) -> None:
        """Send more requests at once than there are threads: each is answered if no thread is held."""

        async def send() -> list[int | BaseException]:
            headers = {"Authorization": f"Bearer {self.site.accounts.keys[0]}"}
            async with httpx.AsyncClient(
                base_url=self.site.stack.run["base_url"], headers=headers, timeout=60
            ) as client:

                async def one(path: str) -> int:
                    return (await client.get(path)).status_code

                paths = ["/health/live", *["/v1/models"] * AT_ONCE]
                return await asyncio.gather(*map(one, paths), return_exceptions=True)

        answers = asyncio.run(send())
        if set(answers) != {200}:
            violation = Violation("no thread is held", "web", f"after the fault: {answers!r}"[:300])
            found[violation.invariant, violation.subject] = violation

    def _check_other_clients(
        self,
        log: ClientLog,
        result: Result,
        began: float,
        found: dict[tuple[str, str], Violation],
    ) -> None:
        """Add a violation if no job of other clients was accepted while some misbehaved."""
        first, last = began + result.began + GRACE_SECONDS, began + result.ended
        if not any(first < seen.at < last for seen in log.of("accepted")):
            violation = Violation(
                "other clients are served", "web", "No job was accepted meanwhile."
            )
            found[violation.invariant, violation.subject] = violation

    def _check_repeatedly(
        self,
        evidence: Evidence,
        found: dict[tuple[str, str], Violation],
        ended: threading.Event,
    ) -> None:
        while not ended.wait(LOOK_SECONDS):
            with suppress(psycopg2.Error):
                for violation in check(evidence, checker.AT_ANY_TIME):
                    found.setdefault((violation.invariant, violation.subject), violation)

    # --- judgement --------------------------------------------------------------------------------
    def _evidence(self, log: ClientLog, beats: Beats) -> Evidence:
        return Evidence(
            query=self.site.postgres.query,
            media=self.site.media,
            log=log,
            received=self.site.receiver.times,
            messages=self.site.receiver.messages,
            ticks=beats.ticks,
            active=self.site.active,
        )

    def _judge(
        self,
        result: Result,
        found: dict[tuple[str, str], Violation],
        log: ClientLog,
        began: float,
    ) -> None:
        fresh = [violation for key, violation in found.items() if key not in self._known]
        self._known |= found.keys()
        result.violations = [vars(violation) for violation in fresh]
        result.lost = _subjects(fresh, checker.LOST)
        result.doubled = _subjects(fresh, checker.DOUBLED)
        result.failed = _subjects(fresh, checker.FAILED)
        result.jobs = len({seen.job for seen in log.of("accepted")})
        refused: Counter[str] = Counter(f"{seen.http} {seen.code}" for seen in log.of("refused"))
        result.refused = dict(refused.most_common())
        result.broken = len(log.of("broken"))
        rows = self.site.postgres.query(
            "SELECT extract(epoch FROM at) FROM chaos_transition"
            " WHERE new = 'succeeded' AND cache = 'miss' AND at >= to_timestamp(%s) ORDER BY at",
            began,
        )
        result.successes = [round(float(row[0]) - began, 3) for row in rows]
        later = [at for at in result.successes if at >= result.ended]
        result.recovered = round(later[0] - result.ended, 2) if later else None
        result.seconds = round(time.time() - began, 1)


def _subjects(violations: Sequence[Violation], names: set[str]) -> int:
    return len({v.subject for v in violations if v.invariant.replace(" ", "_") in names})


def world_of(site: Site, seed: int) -> World:
    return World(
        base_url=site.stack.run["base_url"],
        keys=site.accounts.keys,
        limited=site.accounts.limited,
        variants=site.variants,
        receiver_url=site.receiver.url,
        draw=random.Random(seed),
    )


def measured_rate(world: World, *, seconds: float, share: float, most: float) -> float:
    """Return the steady rate of scenarios: a share of the idle stack's capacity, at most `most`."""
    found: dict[str, Any] = {}

    async def saturate() -> None:
        load = Load(world, ClientLog())
        found["rate"] = await load.saturate(seconds=seconds, clients=12)

    asyncio.run(saturate())
    return min(most, max(0.5, share * found["rate"]))
