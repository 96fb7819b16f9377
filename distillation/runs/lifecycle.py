"""Life cycle of runs: the only module that changes a run's status, lease, token or slices.

    create: queued            claim: queued → running, token + 1, a lease        pause: queued, running → paused
    give_back: running → queued (a slice is over, failed or was lost), or failed when too many failed in a row;
               after a failed slice the run pauses (not_before)
    finish: running → succeeded                                                  resume: paused → queued
    cancel: queued, running, paused → canceled

A worker presents the token with every write. When a run is paused, canceled or rescued its token becomes invalid:
late writes of the worker have no effect. The work of a slice stays in the folders of the stages.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog
from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Coalesce, Now

from distillation import notifications
from distillation.errors import RunFinished, RunOpen
from distillation.models import Run, Slice
from generation.access import audit
from generation.errors import DATABASE_UNAVAILABLE, StorageFailed
from generation.models import Release

log = structlog.get_logger(__name__)

Status = Run.Status
# Error codes. REFUSED: the next slice would fail in the same way. BUSY: another process builds one of the stages.
REFUSED, BUSY = "refused", "stage_busy"
# Codes of slices that do not count as failed: what ends them is elsewhere, and may take hours to repair.
NOT_COUNTED = (BUSY, StorageFailed.code, DATABASE_UNAVAILABLE)
# Pauses after failed slices, doubled at each failure: memory of a device or a storage may be short for minutes.
PAUSE_SECONDS, MAX_PAUSE_SECONDS = 120.0, 3600.0
NOT_COUNTED_PAUSE_SECONDS = 300.0


@dataclass(frozen=True)
class Hold:
    """A worker's hold on a run: the number of the slice is the fencing token."""

    run_id: int
    token: int


def _held(hold: Hold) -> QuerySet[Run]:
    return Run.objects.filter(pk=hold.run_id, status=Status.RUNNING, token=hold.token)


def _lease_end() -> Any:
    """Return the end of a new lease by PostgreSQL's clock: clocks of workers may differ."""
    return Now() + timedelta(seconds=settings.LEASE_SECONDS)


def _move(runs: QuerySet[Run], *, to: Status, **fields: Any) -> int:
    """Change the status; the only place that does. `runs` is filtered on old status and token; check the count."""
    if to != Status.RUNNING:
        fields["lease_expires_at"] = None
    if to not in Run.OPEN:
        fields.setdefault("finished_at", Now())
    return runs.update(status=to, **fields)


# --- begin ----------------------------------------------------------------------------------------
def create(
    *,
    name: str,
    recipe: Mapping[str, Any],
    teacher: Release,
    begins_with: Release | None,
    trigger: Run.Trigger = Run.Trigger.PERSON,
    reasons: Sequence[str] = (),
    policy: Run.Policy = Run.Policy.AUTO,
    tags: Sequence[str] = (),
    created_by: Any = None,
) -> Run:
    """Create a queued run. Raises RunOpen if another run of this teacher is open."""
    try:
        with transaction.atomic():
            run = Run.objects.create(
                name=name,
                recipe=dict(recipe),
                teacher=teacher,
                begins_with=begins_with,
                trigger=trigger,
                reasons=list(reasons),
                policy=policy,
                tags=sorted(set(tags)),
                created_by=created_by,
            )
            audit.record(
                "run_created", run.name, recipe=run.recipe.get("recipe", ""), policy=run.policy
            )
    except IntegrityError as error:
        raise _refused(name, teacher) from error
    log.info("run_created", run=run.name, trigger=trigger, reasons=list(reasons))
    transaction.on_commit(notifications.wake, robust=True)
    return run


def _refused(name: str, teacher: Release) -> RunOpen:
    current = Run.objects.filter(teacher=teacher, status__in=Run.OPEN).first()
    if current is None:
        return RunOpen(f"A run named {name} already exists. Give another name.")
    return RunOpen(
        f"The run {current.name} of {teacher.name} is {current.status} ({current.percent:.0f} %). "
        "Wait for it, or cancel it."
    )


# --- claim and hold -------------------------------------------------------------------------------
def waiting() -> QuerySet[Run]:
    """Return the queued runs that a worker can claim now, oldest first: those that do not pause."""
    is_due = Q(not_before__isnull=True) | Q(not_before__lte=Now())
    return Run.objects.filter(is_due, status=Status.QUEUED).order_by("created_at", "pk")


def claim(worker_name: str) -> tuple[Run, Hold] | None:
    """Claim the oldest waiting run for one slice. None if there is none."""
    with transaction.atomic():
        run = waiting().select_for_update(skip_locked=True).first()
        if run is None:
            return None
        _move(
            Run.objects.filter(pk=run.pk, status=Status.QUEUED, token=run.token),
            to=Status.RUNNING,
            token=F("token") + 1,
            worker_name=worker_name,
            started_at=Coalesce(F("started_at"), Now()),
            not_before=None,
            lease_expires_at=_lease_end(),
        )
        run.refresh_from_db()
        _begin_slice(run, run.token)
    log.info("slice_begins", run=run.name, slice=run.token, worker=worker_name)
    return run, Hold(run.pk, run.token)


def _begin_slice(run: Run, number: int) -> None:
    Slice.objects.create(
        run=run,
        number=number,
        worker_name=run.worker_name,
        stage=run.stage,
        percent=run.percent,
    )


def is_held(hold: Hold, *, extend: bool) -> bool:
    """Return whether the hold is still valid (the run may have been paused, canceled or rescued); renew the lease."""
    rows = _held(hold)
    return bool(rows.update(lease_expires_at=_lease_end())) if extend else rows.exists()


def note(hold: Hold, **fields: Any) -> bool:
    """Write the worker's progress: stage, percent, catalogue, folders. Return False if the hold is not valid."""
    return bool(_held(hold).update(**fields))


def renew(hold: Hold, **fields: Any) -> Hold | None:
    """End the slice and start the next one in the same worker. None if the hold is not valid or another run waits.

    fields: as for `note`.
    """
    if waiting().exists():
        return None
    with transaction.atomic():
        run = _held(hold).select_for_update().first()
        if run is None:
            return None
        for name, value in fields.items():
            setattr(run, name, value)
        _end_slice(run, Slice.Outcome.OVER)
        _held(hold).update(
            token=F("token") + 1, failures=0, lease_expires_at=_lease_end(), **fields
        )
        _begin_slice(run, hold.token + 1)
    return Hold(hold.run_id, hold.token + 1)


# --- end of a slice -------------------------------------------------------------------------------
def give_back(hold: Hold, outcome: Slice.Outcome, *, detail: str = "", code: str = "") -> bool:
    """End a slice before the run has finished. Too many failed or lost slices in a row make the run fail.

    The codes NOT_COUNTED never count. Return False if the hold is not valid.
    """
    is_counted = code not in NOT_COUNTED
    is_failure = outcome in (Slice.Outcome.FAILED, Slice.Outcome.LOST) and is_counted
    with transaction.atomic():
        run = _held(hold).select_for_update().first()
        if run is None:
            return False
        failures = run.failures + is_failure if is_failure or not is_counted else 0
        if is_failure and (failures >= settings.MAX_ATTEMPTS or code == REFUSED):
            _move(
                _held(hold),
                to=Status.FAILED,
                failures=failures,
                error_code=code or str(outcome),
                error_detail=detail,
            )
        else:
            pause = _pause(outcome, failures, is_counted=is_counted)
            not_before = None if pause is None else Now() + pause
            _move(_held(hold), to=Status.QUEUED, failures=failures, not_before=not_before)
            if pause is None:
                transaction.on_commit(notifications.wake, robust=True)
        _end_slice(run, outcome, detail)
    log.info("slice_ends", run=run.name, slice=hold.token, outcome=str(outcome), detail=detail)
    return True


def _pause(outcome: Slice.Outcome, failures: int, *, is_counted: bool) -> timedelta | None:
    """Return the pause after a failed slice; None after others. A lost slice has already cost the length of a lease."""
    if outcome != Slice.Outcome.FAILED:
        return None
    if not is_counted:
        return timedelta(seconds=NOT_COUNTED_PAUSE_SECONDS)
    doubled = PAUSE_SECONDS * 2 ** min(failures - 1, 20)
    return timedelta(seconds=min(doubled, MAX_PAUSE_SECONDS))


def finish(hold: Hold, **fields: Any) -> bool:
    """Finish the run. fields: its results. Return False, without a change, if the hold is not valid."""
    with transaction.atomic():
        run = _held(hold).select_for_update().first()
        if run is None:
            return False
        run.percent = 100.0
        _move(_held(hold), to=Status.SUCCEEDED, percent=100.0, failures=0, **fields)
        _end_slice(run, Slice.Outcome.FINISHED)
    log.info("run_succeeded", run=run.name, slices=hold.token, outcome=str(fields.get("outcome")))
    return True


def _end_slice(run: Run, outcome: Slice.Outcome, detail: str = "") -> None:
    Slice.objects.filter(run=run, number=run.token, outcome=Slice.Outcome.RUNNING).update(
        outcome=outcome,
        stage=run.stage,
        percent=run.percent,
        error_detail=detail,
        ended_at=Now(),
    )


# --- from outside ---------------------------------------------------------------------------------
def rescue() -> int:
    """Release runs whose lease has expired. Idempotent; any process may call it."""
    lost = Run.objects.filter(status=Status.RUNNING, lease_expires_at__lt=Now())
    moved = 0
    for run in lost:
        detail = (
            f"The worker {run.worker_name} did not renew its lease of {settings.LEASE_SECONDS:g} s."
        )
        moved += give_back(Hold(run.pk, run.token), Slice.Outcome.LOST, detail=detail)
    return moved


def pause(run: Run, *, code: str = "", detail: str = "") -> Run:
    """Pause a run: its worker stops after the current step. code, detail: why, if not by hand. Raises RunFinished."""
    reason = {"error_code": code, "error_detail": detail}
    return _stop(run, (Status.QUEUED, Status.RUNNING), Status.PAUSED, **reason)


def cancel(run: Run) -> Run:
    """Cancel a run; the folders of its stages are kept. No change if it is already canceled. Raises RunFinished."""
    return _stop(run, Run.OPEN, Status.CANCELED)


def _stop(run: Run, before: Sequence[Status], to: Status, **fields: str) -> Run:
    with transaction.atomic():
        run = Run.objects.select_for_update().get(pk=run.pk)
        if run.status in before:
            _move(Run.objects.filter(pk=run.pk), to=to, **fields)
            _end_slice(run, Slice.Outcome.STOPPED, fields.get("error_detail", ""))
            run.refresh_from_db()
            audit.record(
                f"run_{to}", run.name, **({"reason": run.error_detail} if run.error_detail else {})
            )
            log.info(f"run_{to}", run=run.name, detail=run.error_detail)
        elif run.status != to:
            raise RunFinished(f"The run {run.name} is {run.status}.")
    return run


def resume(run: Run) -> Run:
    """Resume a paused or failed run, at once. Raises RunFinished, and RunOpen if another one has started."""
    again = Run.objects.filter(pk=run.pk, status__in=(Status.PAUSED, Status.FAILED))
    try:
        with transaction.atomic():
            moved = _move(
                again,
                to=Status.QUEUED,
                failures=0,
                not_before=None,
                finished_at=None,
                error_code="",
                error_detail="",
            )
            if moved:
                audit.record("run_resumed", run.name)
    except IntegrityError as error:
        raise _refused(run.name, run.teacher) from error
    run = Run.objects.get(pk=run.pk)
    if moved:
        log.info("run_resumed", run=run.name)
        transaction.on_commit(notifications.wake, robust=True)
    elif not run.is_open:
        raise RunFinished(f"The run {run.name} is {run.status}.")
    return run
