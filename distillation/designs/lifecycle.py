"""Life cycle of designs: the only module that changes their rows.

    create: queued, or paused for the command that continues it         claim, join: queued, paused → running, a lease
    note: renews the lease                                              leave: running → queued or paused
    finish: running → succeeded                                         fail: running → failed
    cancel: queued, running, paused → canceled                          reopen: ended → paused, when it gets more hours

Several processes may work on one design: which one works on a candidate is decided by a file lock (`design.search`).
"""

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from django.db.models.functions import Now

from distillation import folders, notifications
from distillation.design.files import RECIPE
from distillation.designs import devices
from distillation.designs.briefs import Brief
from distillation.errors import DesignFinished
from distillation.models import Design
from generation.access import audit

log = structlog.get_logger(__name__)

Status = Design.Status


def root() -> Path:
    """Return the folder of the stages of all designs, which share their pairs."""
    return folders.root() / "designs"


def output(design: Design) -> Path:
    """Return the folder of its results, which is kept and backed up with the reports."""
    return folders.report(design.name)


def chosen_recipe(design: Design) -> dict[str, Any] | None:
    """Return the recipe of the choice from its file; None if there is none."""
    try:
        value = json.loads((output(design) / RECIPE).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


# --- begin ----------------------------------------------------------------------------------------
def create(brief: Brief, *, is_for_workers: bool, created_by: Any = None) -> Design:
    """Create a design: queued for workers, or paused until its command joins."""
    with transaction.atomic():
        design = Design.objects.create(
            key=brief.key,
            recipe=dict(brief.recipe),
            teacher=brief.teacher,
            student=brief.student,
            limits=brief.limits.as_json(),
            device=brief.device,
            wish=brief.wish,
            hours=brief.hours,
            most_candidates=brief.most_candidates,
            tags=sorted(brief.tags),
            is_for_workers=is_for_workers,
            created_by=created_by,
            status=Status.QUEUED if is_for_workers else Status.PAUSED,
        )
        if is_for_workers:
            audit.record("design_created", design.name, limits=design.limits, hours=design.hours)
            transaction.on_commit(notifications.wake, robust=True)
    log.info("design_created", design=design.name, limits=design.limits, wish=brief.wish)
    return design


def resumed_or_created(brief: Brief) -> Design:
    """Return the latest design of a command with this brief, a new one if there is none or it was canceled."""
    rows = Design.objects.filter(key=brief.key, is_for_workers=False)
    found = rows.exclude(status=Status.CANCELED).order_by("-created_at", "-pk").first()
    return found or create(brief, is_for_workers=False)


# --- hold -----------------------------------------------------------------------------------------
def _lease_end() -> Any:
    """Return the end of a new lease by PostgreSQL's clock."""
    return Now() + timedelta(seconds=settings.LEASE_SECONDS)


def _move(rows: QuerySet[Design], *, to: Status, **fields: Any) -> int:
    """Change the status; the only place that does. `rows` is filtered on the old status; check the count."""
    fields["lease_expires_at"] = _lease_end() if to == Status.RUNNING else None
    if to not in Design.OPEN:
        fields.setdefault("finished_at", Now())
    return rows.update(status=to, **fields)


def waiting(on: Sequence[str]) -> QuerySet[Design]:
    """Return the queued designs that a machine with these devices can measure, oldest first."""
    rows = Design.objects.filter(status=Status.QUEUED, device__in=devices.measured_on(on))
    return rows.order_by("created_at", "pk")


def claim(worker_name: str, *, on: Sequence[str]) -> Design | None:
    """Claim the oldest queued design for one of these devices. None if there is none."""
    with transaction.atomic():
        design = waiting(on).select_for_update(skip_locked=True).first()
        if design is None:
            return None
        _move(Design.objects.filter(pk=design.pk), to=Status.RUNNING, worker_name=worker_name)
    design.refresh_from_db()
    log.info("design_begins", design=design.name, worker=worker_name)
    return design


def join(design: Design, worker_name: str, *, hours: float) -> Design:
    """Start work on a design, possibly beside other processes; reopen an ended one if it gets more hours."""
    rows = Design.objects.filter(pk=design.pk)
    is_more = design.seconds < hours * 3600
    if is_more and design.status in (Status.SUCCEEDED, Status.FAILED):
        ended = rows.filter(status__in=(Status.SUCCEEDED, Status.FAILED))
        _move(ended, to=Status.PAUSED, finished_at=None, error_detail="")
    open_rows = rows.filter(status__in=Design.OPEN)
    if _move(open_rows, to=Status.RUNNING, worker_name=worker_name, hours=hours):
        log.info("design_begins", design=design.name, worker=worker_name)
    return Design.objects.get(pk=design.pk)


def note(design: Design, *, seconds: float, at_work: str) -> float | None:
    """Add worked seconds, renew the lease, and return all seconds worked; None if it was canceled or has ended.

    A design whose lease expired during a long step is set to running again.
    """
    whole = max(1.0, design.hours * 3600)
    with transaction.atomic():
        rows = Design.objects.filter(pk=design.pk, status__in=Design.OPEN)
        held = rows.select_for_update().values_list("seconds", flat=True).first()
        if held is None:
            return None
        spent = held + seconds
        percent = min(99.9, 100 * spent / whole)
        _move(rows, to=Status.RUNNING, seconds=spent, percent=percent, at_work=at_work[:200])
    return spent


def leave(design: Design) -> None:
    """Release the design for the next slice of a worker or the next call of its command."""
    to = Status.QUEUED if design.is_for_workers else Status.PAUSED
    with transaction.atomic():
        if _move(Design.objects.filter(pk=design.pk, status=Status.RUNNING), to=to, at_work=""):
            log.info("design_left", design=design.name, status=str(to))
            if to == Status.QUEUED:
                transaction.on_commit(notifications.wake, robust=True)


def finish(design: Design, *, choice: int | None, reason: str) -> None:
    fields = {"choice": choice, "reason": reason, "percent": 100.0, "at_work": ""}
    if _move(
        Design.objects.filter(pk=design.pk, status__in=Design.OPEN), to=Status.SUCCEEDED, **fields
    ):
        log.info("design_succeeded", design=design.name, choice=choice, reason=reason)


def fail(design: Design, detail: str) -> None:
    fields = {"error_detail": detail[:2000], "at_work": ""}
    if _move(
        Design.objects.filter(pk=design.pk, status__in=Design.OPEN), to=Status.FAILED, **fields
    ):
        log.info("design_failed", design=design.name, detail=detail)


def cancel(design: Design) -> Design:
    """Cancel a design; its results so far are kept. Raises DesignFinished."""
    with transaction.atomic():
        rows = Design.objects.filter(pk=design.pk, status__in=Design.OPEN)
        moved = _move(rows, to=Status.CANCELED, at_work="")
        if moved:
            audit.record("design_canceled", design.name)
    design = Design.objects.get(pk=design.pk)
    if moved:
        log.info("design_canceled", design=design.name)
    elif design.status != Status.CANCELED:
        raise DesignFinished(f"The design {design.pk} is {design.status}.")
    return design


def forget(design: Design) -> None:
    """Delete a design that could not start; one that has started is kept."""
    Design.objects.filter(pk=design.pk, seconds=0, candidates=None).delete()


def rescue() -> int:
    """Release designs whose lease has expired, and return their number. Idempotent."""
    lost = list(Design.objects.filter(status=Status.RUNNING, lease_expires_at__lt=Now()))
    for design in lost:
        leave(design)
    return len(lost)
