"""Audit log of changes to keys, users, releases, the catalogue, runs and their inputs, written in the same transaction.

The actor is a context variable, set by `generation.api.middleware` in requests and by signals in Celery tasks. In any
other process it is the operating system's user, who runs a command.
"""

import getpass
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import structlog
from celery.signals import task_postrun, task_prerun
from django.db import connection, transaction

from generation.models import AuditEntry

log = structlog.get_logger(__name__)

ADMIN, API, COMMAND, SCHEDULE = "admin", "api", "command", "schedule"
BACKUPS = BACKUP_WRITTEN, BACKUP_RESTORED = "backup_written", "backup_restored"


@dataclass(frozen=True)
class Actor:
    """Who makes a change. name: username, "" for the schedule; via: one of the constants above."""

    name: str
    via: str


def _of_this_process() -> Actor:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # the user of a container may have no name
        name = f"uid {os.getuid()}"
    return Actor(name, COMMAND)


_who: ContextVar[Callable[[], Actor]] = ContextVar("who", default=_of_this_process)


@contextmanager
def acting(who: Callable[[], Actor]) -> Iterator[None]:
    """Set the actor inside the block. `who` is called at each change, since a request's user is known late."""
    token = _who.set(who)
    try:
        yield
    finally:
        _who.reset(token)


@task_prerun.connect
def _task_begins(**_: object) -> None:
    _who.set(lambda: Actor("", SCHEDULE))


@task_postrun.connect
def _task_ends(**_: object) -> None:
    _who.set(_of_this_process)


def record(action: str, subject: object, **detail: object) -> AuditEntry:
    """Write an entry in the transaction of the change and return it. detail: JSON values."""
    who = _who.get()()
    entry = AuditEntry.objects.create(
        actor=who.name[:150], via=who.via, action=action, subject=str(subject)[:160], detail=detail
    )
    facts = {"action": action, "subject": str(subject), "actor": who.name, "via": who.via}
    transaction.on_commit(partial(log.info, "audited", **facts), robust=True)
    return entry


def record_backup(action: str, subject: object, *, made_at: str, **detail: object) -> None:
    """Record a backup or a restoration, unless the database is too old to have an audit log.

    made_at: time when the backup was started, in ISO format.
    """
    if AuditEntry._meta.db_table in connection.introspection.table_names():
        record(action, subject, made_at=made_at, **detail)


def last_backup() -> datetime | None:
    """Return the start time of the latest backup that was written or restored, or None.

    A backup does not contain its own entry, so a restoration records its backup too.
    """
    last = AuditEntry.objects.filter(action__in=BACKUPS).first()
    return datetime.fromisoformat(last.detail["made_at"]) if last else None
