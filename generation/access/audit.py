"""The audit log: who changed a key or a release, when and how. Written in the transaction of the change. Knows no HTTP.

Who acts is known to a context: a request says it through `generation.api.middleware`, a task is the schedule's, and any
other process is a command that somebody of this machine has started.
"""

import getpass
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial

import structlog
from celery.signals import task_postrun, task_prerun
from django.db import transaction

from generation.models import AuditEntry

log = structlog.get_logger(__name__)

ADMIN, API, COMMAND, SCHEDULE = "admin", "api", "command", "schedule"


@dataclass(frozen=True)
class Actor:
    """name: of a user, "" for a process of ours; via: one of the words above."""

    name: str
    via: str


def _of_this_process() -> Actor:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        name = f"uid {os.getuid()}"
    return Actor(name, COMMAND)


_who: ContextVar[Callable[[], Actor]] = ContextVar("who", default=_of_this_process)


@contextmanager
def acting(who: Callable[[], Actor]) -> Iterator[None]:
    """Whose changes those inside are. `who` is asked at a change: a request knows its user only by then."""
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


def record(action: str, subject: object, **detail: object) -> None:
    """Write an entry, in the transaction of the change. detail: what JSON can say."""
    who = _who.get()()
    AuditEntry.objects.create(
        actor=who.name[:150], via=who.via, action=action, subject=str(subject)[:160], detail=detail
    )
    facts = {"action": action, "subject": str(subject), "actor": who.name, "via": who.via}
    transaction.on_commit(partial(log.info, "audited", **facts), robust=True)
