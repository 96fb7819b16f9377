"""Scheduler of beat: the schedule is in the database, for people to change, and only the holder of the lock sends."""

from collections.abc import Mapping
from typing import Any

import structlog
from django_celery_beat.models import PeriodicTask
from django_celery_beat.schedulers import DatabaseScheduler

from generation.infra import beat_lock

log = structlog.get_logger(__name__)

DEFAULT = "Default: "  # begins the description of a row: the schedule that the settings name


class Scheduler(DatabaseScheduler):
    """Inserts the entries of the settings that are missing, and leaves alone what people have changed.

    A row that nobody has changed follows the settings, such as SWEEP_SECONDS.
    """

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Send what is due if this process still holds the lock. Return the seconds until the next call."""
        if not beat_lock.keep():
            return beat_lock.LOOK_SECONDS
        return super().tick(*args, **kwargs)

    def update_from_dict(self, mapping: Mapping[str, Mapping[str, Any]]) -> None:
        rows = PeriodicTask.objects.in_bulk(list(mapping), field_name="name")
        super().update_from_dict({name: mapping[name] for name in mapping if name not in rows})
        for name, entry in mapping.items():
            schedule, field = self.Entry.to_model_schedule(entry["schedule"])
            schedule.refresh_from_db()  # a whole number of seconds
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
                # Of an earlier release, which did not install it.
                expires = entry.get("options", {}).get("expire_seconds")
                PeriodicTask.objects.filter(name=name).update(expire_seconds=expires)
            if row is None or not row.description or row.description.startswith(DEFAULT):
                # Not by `save`, after which beat reads the whole schedule again.
                PeriodicTask.objects.filter(name=name).update(description=default)
