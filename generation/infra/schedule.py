"""Scheduler of beat: the schedule is in the database, where people can change it; only the lock's holder sends."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import structlog
from celery.beat import ScheduleEntry
from django.utils import timezone
from django_celery_beat.models import PeriodicTask
from django_celery_beat.schedulers import DatabaseScheduler

from generation.infra import beat_lock

log = structlog.get_logger(__name__)

DEFAULT = "Default: "  # prefix of a row's description, followed by the schedule of the settings


class Scheduler(DatabaseScheduler):
    """Inserts missing entries of the settings, and keeps changes by people.

    An unchanged row follows the settings, such as SWEEP_SECONDS.
    """

    _looked_at = datetime.min.replace(tzinfo=UTC)

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Send due tasks if this process still holds the lock. Return the seconds until the next call."""
        if not beat_lock.keep():
            return beat_lock.POLL_SECONDS
        return super().tick(*args, **kwargs)

    def schedule_changed(self) -> bool:
        """Return whether the rows changed, or the clock of this host was set back since the last call."""
        is_changed = bool(super().schedule_changed())
        before, self._looked_at = self._looked_at, timezone.now()
        return is_changed or self._looked_at < before

    def all_as_schedule(self) -> dict[str, ScheduleEntry]:
        """Return the entries of the enabled rows by name, without rows that cannot be scheduled.

        The library skips only a ValueError. Any other error would end beat at every start. A row with a last run in the
        future, from before a clock was set back, would not be due until then.
        """
        entries = {}
        now = timezone.now()
        for row in self.enabled_models():
            try:
                if row.last_run_at is not None and row.last_run_at > now:
                    row.last_run_at = now
                entry = self.Entry(row, app=self.app)
                entry.schedule.remaining_estimate(entry.last_run_at)  # raises without a next date
                entries[row.name] = entry
            except Exception:
                log.exception("periodic_task_skipped", entry=row.name)
        return entries

    def update_from_dict(self, mapping: Mapping[str, Mapping[str, Any]]) -> None:
        rows = PeriodicTask.objects.in_bulk(list(mapping), field_name="name")
        super().update_from_dict({name: mapping[name] for name in mapping if name not in rows})
        for name, entry in mapping.items():
            schedule, field = self.Entry.to_model_schedule(entry["schedule"])
            schedule.refresh_from_db()  # rounds to whole seconds
            default = DEFAULT + str(schedule)
            row = rows.get(name)
            if row is not None and default != row.description == DEFAULT + str(row.scheduler):
                for _, _, other in self.Entry.model_schedules:
                    setattr(row, other, schedule if other == field else None)
                row.save()
                log.info("schedule_follows_settings", entry=name, schedule=str(schedule))
            elif row is not None and str(row.scheduler) != str(schedule):
                log.info("schedule_kept", entry=name, schedule=str(row.scheduler))
            if row is not None and not row.description and row.expire_seconds is None:
                # An earlier version did not set it.
                expires = entry.get("options", {}).get("expire_seconds")
                PeriodicTask.objects.filter(name=name).update(expire_seconds=expires)
            if row is None or not row.description or row.description.startswith(DEFAULT):
                # Not `save`, after which beat would reload the whole schedule.
                PeriodicTask.objects.filter(name=name).update(description=default)
