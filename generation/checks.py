"""System checks of settings. On an error `manage.py`, the workers, beat and the web process refuse to start."""

import re
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.exceptions import ImproperlyConfigured

from generation.infra import heartbeat

MIN_CHARACTERS, MIN_DIFFERENT = 32, 8  # of SECRET_KEY


def is_weak(key: str) -> bool:
    """Return whether a secret key is short, repetitive or Django's placeholder."""
    few = len(key) < MIN_CHARACTERS or len(set(key)) < MIN_DIFFERENT
    return few or key.startswith("django-insecure-")


@register(Tags.compatibility)
def check_settings(**_: Any) -> list[CheckMessage]:
    return list(_faults())


def refuse_faults() -> None:
    """Raise ImproperlyConfigured if settings contradict each other."""
    faults = [fault for fault in check_settings() if fault.is_serious()]
    if faults:
        raise ImproperlyConfigured("\n".join(map(str, faults)))


def _faults() -> Iterator[CheckMessage]:
    lease, stale = settings.LEASE_SECONDS, settings.WORKER_STALE_SECONDS
    # A live worker must not lose its jobs: it renews leases after LEASE_SECONDS / 4, checked every TICK_SECONDS.
    least = 4 * heartbeat.TICK_SECONDS
    if lease < least:
        yield Error(
            f"LEASE_SECONDS={lease:g} is too short: workers check only every {heartbeat.TICK_SECONDS:g} s whether to "
            "renew leases.",
            hint=f"Give at least {least:g}; 20 is a good value.",
            id="generation.E001",
        )
    least = 2 * heartbeat.HEARTBEAT_SECONDS
    if stale < least:
        yield Error(
            f"WORKER_STALE_SECONDS={stale:g}: heartbeats are {heartbeat.HEARTBEAT_SECONDS:g} s apart, so one late "
            "heartbeat would make a worker count as gone.",
            hint=f"Give at least {least:g}; 15 is a good value.",
            id="generation.E002",
        )
    if not settings.DEBUG and is_weak(settings.SECRET_KEY):
        yield Error(
            "SECRET_KEY can be guessed: anybody with a signed link to an image can try keys on it.",
            hint="Make one with: python -c 'import secrets; print(secrets.token_urlsafe(50))'. Put the old one into "
            "SECRET_KEY_FALLBACKS to keep links and sessions valid.",
            id="generation.E007",
        )
    declared = {queue.name for queue in settings.CELERY_TASK_QUEUES}
    named = {route["queue"] for route in settings.CELERY_TASK_ROUTES.values()}
    for name in sorted({*named, settings.CELERY_TASK_DEFAULT_QUEUE} - declared):
        yield Error(
            f"Tasks are routed to the queue {name}, which CELERY_TASK_QUEUES does not have.",
            hint=f"Declared: {', '.join(sorted(declared))}.",
            id="generation.E004",
        )
    # The key that `bootstrap` installs must have the form of all keys, which are found by their prefix.
    plain = settings.LOCAL_API_KEY
    if plain and not re.fullmatch(r"rt_[^_]{1,17}_.{32,}", plain, re.DOTALL):
        yield Error(
            "LOCAL_API_KEY does not have the form of an API key.",
            hint="Give rt_<prefix>_<at least 32 random characters>.",
            id="generation.E006",
        )
    if settings.QUALITY_FLOOR and settings.UNCOVERED != "teacher":
        yield Error(
            f"QUALITY_FLOOR={settings.QUALITY_FLOOR:g} has no effect with UNCOVERED={settings.UNCOVERED}: the teacher "
            "then serves only requests that name it.",
            hint="Give UNCOVERED=teacher, or QUALITY_FLOOR=0.",
            id="generation.E008",
        )
    if settings.LOGIN_HEADER and not settings.SECURE_PROXY_SSL_HEADER:
        yield Error(
            f"LOGIN_HEADER={settings.LOGIN_HEADER} logs in any client that sends this header, and no proxy is "
            "configured that removes it.",
            hint="Set BEHIND_TLS_PROXY=true if there is a proxy that replaces the header in every request; or unset "
            "LOGIN_HEADER.",
            id="generation.E009",
        )
    # Jobs of a lost worker wait for the end of their lease and then for the sweep.
    if lease < settings.SWEEP_SECONDS:
        yield Warning(
            f"SWEEP_SECONDS={settings.SWEEP_SECONDS:g} is longer than LEASE_SECONDS={lease:g}: jobs of a lost worker "
            "then wait longer for the sweep than for the end of their lease.",
            hint="Set SWEEP_SECONDS to at most LEASE_SECONDS.",
            id="generation.W001",
        )
