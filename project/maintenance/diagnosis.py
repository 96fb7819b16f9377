"""Diagnosis of an installation: each dependency, what is wrong with it, and what to do."""

import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Any

import django.db
import redis
from django.conf import settings
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.template.defaultfilters import pluralize
from django_celery_beat.models import PeriodicTask

from distillation.detector import version as detector_format
from distillation.detector.errors import DetectorUnusable
from distillation.detectors import registry as detectors
from distillation.models import Detector
from generation.admin.attention import MIN_FREE
from generation.checks import check_settings
from generation.engine import release as release_format
from generation.engine.errors import ReleaseInvalid
from generation.infra import beat_lock, database, heartbeat, queues, redis_client
from generation.jobs import pausing
from generation.models import Image, Release
from generation.releases import lifecycle as releases

MIN_POSTGRESQL = 14
MIN_REDIS = (6, 2)
CLOCK_SECONDS = 2.0
LATEST_IMAGES = 100
PACKAGES = ("django", "celery", "redis", "psycopg2-binary", "uvicorn", "torch", "diffusers")


class State(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True)
class Finding:
    """Result of one check. part: of the installation. advice: what to do, empty if the part is well."""

    part: str
    state: State
    detail: str
    advice: str = ""


Found = Iterator[Finding]


def examine(*, hashes: bool = False) -> Iterator[Finding]:
    """Yield one or more findings per part. hashes: compare hashes of all releases' files instead of their sizes."""
    yield from _versions()
    yield from _settings()
    yield from _data_folder()
    yield from _redis()
    has_database = True
    for finding in _database():
        has_database = has_database and finding.state is not State.FAULT
        yield finding
    if not has_database:
        names = "migrations, workers, releases, images, schedule"
        yield Finding("others", State.WARNING, f"cannot be examined without a database: {names}")
        return
    checks: tuple[tuple[str, Callable[[], Found]], ...] = (
        ("workers", _workers),
        ("schedule", _schedule),
        ("releases", lambda: _releases(hashes=hashes)),
        ("detector", _detector),
        ("images", _images),
    )
    for part, check in checks:
        try:
            yield from check()
        except django.db.Error as error:  # tables are missing
            yield Finding(part, State.FAULT, str(error).strip().splitlines()[0], "Migrate first.")


def _versions() -> Found:
    found = [f"Retort {settings.VERSION}", f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue  # the web image has no torch
    yield Finding("versions", State.OK, ", ".join(found))


def _settings() -> Found:
    faults = check_settings()
    for fault in faults:
        state = State.FAULT if fault.is_serious() else State.WARNING
        yield Finding("settings", state, str(fault.msg), fault.hint or "")
    if not faults:
        yield Finding("settings", State.OK, "no contradiction")


def _data_folder() -> Found:
    place = Path(settings.DATA_DIR)
    if not place.is_dir():
        advice = "Mount it. In a new installation the first stored file creates it."
        yield Finding("data", State.WARNING, f"{place} does not exist", advice)
        return
    if not os.access(place, os.W_OK | os.X_OK):
        advice = "Give this account write access to it, or set DATA_DIR."
        yield Finding("data", State.FAULT, f"{place} cannot be written to", advice)
    disk = shutil.disk_usage(place)
    detail = f"{place}: {disk.free / 2**30:,.1f} GiB of {disk.total / 2**30:,.1f} GiB are free"
    if disk.free < MIN_FREE * disk.total:
        advice = "Set RETENTION_DAYS, run `manage.py retention`, or add disk space."
        yield Finding("data", State.WARNING, detail, advice)
    else:
        yield Finding("data", State.OK, detail)


def _redis() -> Found:
    client = redis_client.client()
    try:
        server: Any = client.info("server")
        memory: Any = client.info("memory")
        seconds, micros = client.time()
    except redis.RedisError as error:
        advice = "Start it, and check REDIS_URL and its password. Jobs are accepted, but wait."
        yield Finding("redis", State.FAULT, f"does not answer: {error}", advice)
        return
    version = server.get("valkey_version") or server["redis_version"]
    detail = f"version {version}, {memory['used_memory'] / 2**20:,.0f} MiB"
    if tuple(int(part) for part in server["redis_version"].split(".")[:2]) < MIN_REDIS:
        yield Finding("redis", State.FAULT, detail, "Install Redis 6.2 or newer, or Valkey.")
    elif refusal := redis_client.refusal():
        advice = "Fix the cause in the message: a full disk or memory, or a failover under way."
        yield Finding("redis", State.FAULT, f"accepts no writes: {refusal}", advice)
    elif memory.get("maxmemory") and memory.get("maxmemory_policy") != "noeviction":
        advice = "Set maxmemory-policy to noeviction: messages must not be evicted."
        yield Finding("redis", State.WARNING, f"{detail}, {memory['maxmemory_policy']}", advice)
    else:
        yield Finding("redis", State.OK, detail)
    yield from _clock("redis", seconds + micros / 1e6)


def _clock(server: str, theirs: float) -> Found:
    behind = abs(time.time() - theirs)
    if behind > CLOCK_SECONDS:
        advice = "Synchronise the clocks of both machines (NTP): this machine's decides when links expire."
        detail = f"{behind:,.1f} s between this machine and {server}"
        yield Finding("clock", State.WARNING, detail, advice)


def _database() -> Found:
    facts = connection.settings_dict
    place = f"{facts['HOST']}:{facts['PORT'] or 5432}/{facts['NAME']}"
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_is_in_recovery(), pg_database_size(current_database()),"
                " current_setting('server_version_num')::int"
            )
            is_standby, size, version = cursor.fetchone()
        now = database.now()
        executor = MigrationExecutor(connection)
    except django.db.Error as error:
        advice = "Start it, and check DATABASE_URL: host, port, name, password."
        detail = f"{place} does not answer: {str(error).strip().splitlines()[0]}"
        yield Finding("postgresql", State.FAULT, detail, advice)
        return
    detail = f"{place}, version {version // 10000}.{version % 10000}, {size / 2**20:,.0f} MiB"
    if version < MIN_POSTGRESQL * 10_000:
        advice = f"Install PostgreSQL {MIN_POSTGRESQL} or newer."
        yield Finding("postgresql", State.FAULT, detail, advice)
    elif is_standby:
        advice = (
            "Name the primary in DATABASE_URL, or all hosts: the one that accepts writes is used."
        )
        yield Finding("postgresql", State.FAULT, f"{detail}: a standby, read-only", advice)
    else:
        yield Finding("postgresql", State.OK, detail)
    yield from _clock("PostgreSQL", now.timestamp())
    yield from _migrations(executor)


def _migrations(executor: MigrationExecutor) -> Found:
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    known = set(executor.loader.disk_migrations)
    ours = ("generation", "distillation")
    newer = [
        key for key in executor.loader.applied_migrations if key[0] in ours and key not in known
    ]
    if missing:
        first = missing[0][0]
        are = pluralize(len(missing), "is,are")
        detail = f"{len(missing)} {are} not applied, such as {first.app_label}.{first.name}"
        yield Finding("migrations", State.FAULT, detail, "Run `manage.py bootstrap`.")
    if newer:
        detail = f"the database has migrations of newer code: {'.'.join(newer[0])}"
        advice = "Install that version here too: code may be one release older than the database, not more."
        yield Finding("migrations", State.WARNING, detail, advice)
    if not missing and not newer:
        yield Finding("migrations", State.OK, "all are applied")


def _workers() -> Found:
    alive = dict.fromkeys(queues.REQUIRED, 0)
    for worker in heartbeat.alive().order_by("name"):
        alive[worker.queue] = alive.get(worker.queue, 0) + 1
        if worker.fault:
            advice = "Fix the cause in the message; the worker retries automatically."
            detail = f"{worker.name} accepts no jobs: {worker.fault}. {worker.fault_detail}".strip()
            yield Finding("workers", State.FAULT, detail, advice)
    for queue, count in alive.items():
        if not count:
            state = State.FAULT if queue in queues.CRITICAL else State.WARNING
            advice = f"Start one: make run, or celery -A project worker -Q {queue} (deploy/compose.yaml)."
            detail = f"no {queue} worker: {queues.REQUIRED[queue]}"
            yield Finding("workers", state, detail, advice)
    running = ", ".join(f"{count} {queue}" for queue, count in alive.items() if count)
    if running:
        yield Finding("workers", State.OK, running)
    for paused in pausing.states():
        if paused.paused_at:
            wait = pluralize(paused.queued, " waits,s wait")
            detail = f"{paused.name} is paused by {paused.paused_by}, {paused.queued} job{wait}"
            advice = f"Resume it when the cause is fixed: manage.py queues resume {paused.name}"
            yield Finding("queues", State.WARNING, detail, advice)


def _schedule() -> Found:
    try:
        is_beating = beat_lock.is_held()
    except redis.RedisError:
        return  # reported by _redis
    if is_beating:
        yield Finding("beat", State.OK, "runs")
    else:
        advice = "Start it: make run, or celery -A project beat."
        detail = (
            "does not run: jobs are rescued later, and nothing is encoded or distilled by schedule"
        )
        yield Finding("beat", State.FAULT, detail, advice)
    disabled = PeriodicTask.objects.filter(name__in=settings.CELERY_BEAT_SCHEDULE, enabled=False)
    for name in disabled.order_by("name").values_list("name", flat=True):
        advice = "Enable it in the admin under Periodic tasks, unless this is intended."
        yield Finding("schedule", State.WARNING, f"{name} is disabled", advice)


def _releases(*, hashes: bool) -> Found:
    good = 0
    for release in Release.objects.exclude(status=Release.Status.REJECTED).order_by("name"):
        try:
            release_format.verify(releases.folder(release), hashes=hashes)
            good += 1
        except ReleaseInvalid as error:
            until = {
                Release.Status.ACTIVE: f"rollback {release.kind}",
                Release.Status.SPECIALIST: f"retire {release.name}",
            }.get(Release.Status(release.status))
            state = State.FAULT if until else State.WARNING
            advice = "Copy its files again from a backup or its source."
            if until:
                advice += f" Until then: manage.py release {until}."
            yield Finding("releases", state, f"{release.name}: {error.detail}", advice)
    if not Release.objects.filter(status=Release.Status.ACTIVE).exists():
        advice = "Run `manage.py bootstrap`, or `manage.py release activate NAME`."
        yield Finding("releases", State.FAULT, "none is active: no job can run", advice)
    compared = "hashes" if hashes else "names and sizes"
    yield Finding("releases", State.OK, f"{good} have their files ({compared} compared)")


def _detector() -> Found:
    active = Detector.objects.filter(status=Detector.Status.ACTIVE).first()
    if active is None:
        known = "none is active: images are not judged"
        if not Detector.objects.exists():
            known = "none is registered: the first use registers the shipped one"
        yield Finding("detector", State.OK, known)
        return
    try:
        detector_format.read(detectors.folder(active))
        yield Finding("detector", State.OK, f"{active.name} can be read")
    except DetectorUnusable as error:
        advice = "Copy its files again, or activate another version in the admin."
        yield Finding("detector", State.WARNING, f"{active.name}: {error}", advice)


def _images() -> Found:
    """Check that the files of the latest images exist."""
    if settings.S3_BUCKET:
        yield Finding("images", State.OK, f"in the bucket {settings.S3_BUCKET}, not examined")
        return
    latest = list(
        Image.objects.order_by("-created_at").values_list("file", flat=True)[:LATEST_IMAGES]
    )
    missing = [name for name in latest if not (Path(settings.MEDIA_ROOT) / name).is_file()]
    if missing:
        advice = "Check that DATA_DIR is mounted and of this database. Missing images are made again on request."
        detail = f"{len(missing)} of the latest {len(latest)} have no file, such as {missing[0]}"
        yield Finding("images", State.FAULT, detail, advice)
    else:
        yield Finding("images", State.OK, f"the latest {len(latest)} have their files")
