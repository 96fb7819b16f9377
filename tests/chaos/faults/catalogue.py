"""All faults, those of a quick run, and pairs."""

import itertools
import random
import signal
from datetime import timedelta
from functools import partial

from tests.chaos.faults.fault import Fault
from tests.chaos.faults.people import Activation, Flood, MisbehavingClients
from tests.chaos.faults.postgresql_states import (
    ConnectionsUsedUp,
    DiskFull,
    FailedOver,
    PostgresReadOnly,
    PostgresRestarted,
    PostgresRestored,
    ServerDown,
    ServerFrozen,
    SessionsCut,
)
from tests.chaos.faults.processes import (
    GENERATION,
    BrokenDevice,
    Frozen,
    Killed,
    SecondBeat,
    WrongClock,
)
from tests.chaos.faults.redis_states import Garbage, RedisFlushed, RedisState
from tests.chaos.faults.storage import FilesDamaged, StorageFull, StorageGone
from tests.chaos.stack import OTHER_HOST
from tests.redis_states import RedisStates


def everything() -> list[Fault]:
    """Return all faults, in the order of a run."""
    return [
        Fault("none", "none"),
        Killed("a generation worker killed", "worker", processes=GENERATION[:1]),
        BrokenDevice("a generation worker killed at its commits", "worker", 30, mode="die"),
        Killed("all generation workers killed", "worker", processes=GENERATION, again_seconds=60),
        Frozen("a generation worker frozen", "worker", 12, processes=GENERATION[:1]),
        Killed(
            "web and a generation worker stopped in order", "worker",
            processes=("web", GENERATION[0]), again_seconds=60, number=signal.SIGTERM,
        ),
        Killed("web killed", "web", processes=("web",)),
        Frozen("web frozen", "web", processes=("web",)),
        Killed("light killed", "light", processes=("light",)),
        Killed("webhooks killed", "webhooks", processes=("webhooks",)),
        Killed("beat killed", "beat", processes=("beat",)),
        Killed("encode killed", "encode", processes=("encode",)),
        SecondBeat("two beats", "beat"),
        ServerDown("Redis killed", "redis"),
        ServerFrozen("Redis frozen", "redis", 12),
        RedisState("Redis READONLY", "redis", 12, state=RedisStates.read_only),
        RedisState("Redis MASTERDOWN", "redis", 12, state=RedisStates.master_down),
        RedisState("Redis LOADING", "redis", 12, state=partial(RedisStates.loading, seconds=12)),
        RedisState("Redis OOM", "redis", state=RedisStates.out_of_memory),
        RedisState("Redis NOREPLICAS", "redis", state=RedisStates.too_few_replicas),
        RedisState("Redis MISCONF", "redis", state=RedisStates.cannot_save),
        RedisState("Redis WRONGPASS", "redis", state=RedisStates.other_password),
        RedisFlushed("Redis flushed", "redis"),
        Garbage("garbage in Redis", "redis"),
        SessionsCut("PostgreSQL sessions cut", "postgres"),
        PostgresReadOnly("PostgreSQL read-only", "postgres"),
        ServerFrozen("PostgreSQL frozen", "postgres", server="postgres"),
        ConnectionsUsedUp("PostgreSQL without free connections", "postgres"),
        PostgresRestarted("PostgreSQL restarted", "postgres"),
        ServerDown("PostgreSQL killed", "postgres", server="postgres"),
        ServerDown("PgBouncer killed", "postgres", server="pgbouncer"),
        DiskFull("PostgreSQL on a full disk", "postgres", 12),
        FailedOver("PostgreSQL failed over", "postgres"),
        PostgresRestored("PostgreSQL restored", "postgres"),
        WrongClock(
            "a host two hours ahead", "clock", 15, processes=OTHER_HOST, by=timedelta(hours=2)
        ),
        WrongClock(
            "a host two hours behind", "clock", 15, processes=OTHER_HOST, by=timedelta(hours=-2)
        ),
        WrongClock("web's host two hours ahead", "clock", processes=("web",), by=timedelta(hours=2)),
        WrongClock("web's host two hours behind", "clock", processes=("web",), by=timedelta(hours=-2)),
        StorageGone("storage gone", "storage"),
        StorageFull("storage full", "storage"),
        FilesDamaged("files damaged", "storage"),
        BrokenDevice("a device fails once", "device", mode="raise-once"),
        BrokenDevice("a device always fails", "device", 15, mode="raise"),
        BrokenDevice("a device hangs", "device", 60, mode="hang"),
        BrokenDevice("a device is slow", "device", mode="slow"),
        Activation("another release activated", "people"),
        Flood("400 identical jobs at once", "flood"),
        MisbehavingClients("half-sent bodies", "clients", 15, way="half_bodies"),
        MisbehavingClients("pipelined requests, nothing read", "clients", 15, way="pipelined_readers"),
        MisbehavingClients("connections reset", "clients", 15, way="resets"),
        MisbehavingClients("idle connections", "clients", 15, way="idle", number=300),
    ]  # fmt: skip


# A fault of each class, and pairs that occur in practice.
QUICK = (
    "none", "a generation worker killed at its commits", "web killed", "two beats",
    "Redis killed", "Redis READONLY", "Redis flushed",
    "PostgreSQL sessions cut", "PostgreSQL read-only", "PostgreSQL restarted", "storage full", "files damaged",
    "a device always fails", "a device hangs", "half-sent bodies", "pipelined requests, nothing read",
)  # fmt: skip
QUICK_PAIRS = (
    ("a generation worker killed", "PostgreSQL sessions cut"),
    ("Redis READONLY", "storage full"),
)


def pairs(faults: list[Fault], number: int, seed: int) -> list[tuple[Fault, Fault]]:
    """Return at most `number` pairs of different groups; the same for the same seed."""
    possible = [
        (first, second)
        for first, second in itertools.combinations(faults, 2)
        if first.group != second.group and "none" not in (first.group, second.group)
    ]
    return random.Random(seed).sample(possible, min(number, len(possible)))
