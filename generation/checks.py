"""System checks of settings that contradict each other. `manage.py` and the workers refuse to start."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from generation.infra import heartbeat


@register(Tags.compatibility)
def check_leases(**_: Any) -> list[CheckMessage]:
    """A living worker must never lose its jobs: it renews leases at LEASE_SECONDS / 4, checked every TICK_SECONDS."""
    least = 4 * heartbeat.TICK_SECONDS
    if least <= settings.LEASE_SECONDS:
        return []
    return [
        Error(
            f"LEASE_SECONDS={settings.LEASE_SECONDS:g} is too short: workers check only every "
            f"{heartbeat.TICK_SECONDS:g} s whether to renew leases.",
            hint=f"Give at least {least:g}; 20 is a good value.",
            id="generation.E001",
        )
    ]


@register(Tags.compatibility)
def check_heartbeats(**_: Any) -> list[CheckMessage]:
    """One late heartbeat must not make a worker count as gone."""
    least = 2 * heartbeat.HEARTBEAT_SECONDS
    if least <= settings.WORKER_STALE_SECONDS:
        return []
    return [
        Error(
            f"WORKER_STALE_SECONDS={settings.WORKER_STALE_SECONDS:g}: heartbeats are "
            f"{heartbeat.HEARTBEAT_SECONDS:g} s apart, so one late heartbeat would make a worker count as gone.",
            hint=f"Give at least {least:g}; 15 is a good value.",
            id="generation.E002",
        )
    ]


@register(Tags.compatibility)
def check_queues(**_: Any) -> list[CheckMessage]:
    """Tasks must be routed to declared queues."""
    declared = {queue.name for queue in settings.CELERY_TASK_QUEUES}
    named = {route["queue"] for route in settings.CELERY_TASK_ROUTES.values()}
    named.add(settings.CELERY_TASK_DEFAULT_QUEUE)
    return [
        Error(
            f"Tasks are routed to the queue {name}, which CELERY_TASK_QUEUES does not have.",
            hint=f"Declared: {', '.join(sorted(declared))}.",
            id="generation.E004",
        )
        for name in sorted(named - declared)
    ]


@register(Tags.compatibility)
def check_redelivery(**_: Any) -> list[CheckMessage]:
    """Redis delivers an unacknowledged message again after visibility_timeout (Celery issues 5935, 3270)."""
    transport = settings.CELERY_BROKER_TRANSPORT_OPTIONS
    if not settings.CELERY_TASK_ACKS_LATE or transport["visibility_timeout"] >= 3600:
        return []
    return [
        Error(
            "CELERY_TASK_ACKS_LATE with a short visibility_timeout runs long tasks twice.",
            hint="Acknowledge early: lost messages are sent again. Or give a visibility_timeout of an hour or more.",
            id="generation.E005",
        )
    ]


@register(Tags.security)
def check_local_key(**_: Any) -> list[CheckMessage]:
    """The key that `bootstrap` installs must have the form of all keys, which are found by their prefix."""
    plain = settings.LOCAL_API_KEY
    parts = plain.split("_", 2)
    if not plain or (
        len(parts) == 3 and parts[0] == "rt" and 1 <= len(parts[1]) <= 17 and len(parts[2]) >= 32
    ):
        return []
    return [
        Error(
            "LOCAL_API_KEY has not the form of an API key.",
            hint="Give rt_<prefix>_<at least 32 random characters>.",
            id="generation.E006",
        )
    ]


@register(Tags.compatibility)
def check_sweeping(**_: Any) -> list[CheckMessage]:
    """Jobs of a lost worker wait for the end of their lease and then for the sweep."""
    if settings.SWEEP_SECONDS <= settings.LEASE_SECONDS:
        return []
    return [
        Warning(
            f"SWEEP_SECONDS={settings.SWEEP_SECONDS:g} is longer than LEASE_SECONDS={settings.LEASE_SECONDS:g}: "
            "jobs of a lost worker wait mostly for the sweep.",
            hint="Sweep at least as often as leases end.",
            id="generation.W001",
        )
    ]
