"""First page of the admin: open issues, trends, figures and images, each for users with the permission."""

import shutil
from datetime import timedelta
from typing import Any

import redis
from django.conf import settings
from django.contrib.humanize.templatetags.humanize import naturaltime
from django.db.models import Count, Q
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.formats import date_format

from generation.access import audit
from generation.admin import attention, pictures, trends
from generation.catalogue import variants as catalogue
from generation.infra import beat_lock, heartbeat, light
from generation.models import Image, Job, Release

LATEST_PICTURES = 18


def summary(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Return the context of the page. `distillation.admin.dashboard`, unfold's DASHBOARD_CALLBACK, extends it."""
    context["attention"] = list(attention.items(request))
    cards: list[dict[str, Any]] = []
    may = request.user.has_perm
    if may("generation.view_job"):
        cards += _jobs()
        context["hour"], context["trends"] = trends.hour(), trends.week()
        latest = (
            Image.objects.filter(index=0).order_by("-created_at").select_related("job__embedding")
        )
        latest = latest.defer("job__embedding__data")[:LATEST_PICTURES]
        context["latest"] = [
            {
                "thumbnail": pictures.link(image.pk, "thumbnail"),
                "job": reverse("admin:generation_job_change", args=[image.job_id]),
                "text": image.job.embedding.text,
            }
            for image in latest
        ]
    if may("generation.view_worker"):
        cards += _workers()
    if may("generation.view_auditentry"):
        cards.append(_backup())
    if may("generation.view_release"):
        cards += _releases()
    if may("generation.view_promptvariant"):
        cards += _catalogue()
    context["cards"] = cards
    return context


def _card(
    title: str, value: object, note: str, url: str, query: str = "", *, is_bad: bool = False
) -> dict:
    link = reverse(f"admin:generation_{url}_changelist") + query
    return {"title": title, "value": value, "note": note, "url": link, "is_bad": is_bad}


def _jobs() -> list[dict]:
    day = timezone.now() - timedelta(days=1)
    Status = Job.Status
    # Each count reads a partial index or the last day, none the whole table.
    queued = Job.objects.filter(status=Status.QUEUED).count()
    running = Job.objects.filter(status=Status.RUNNING).count()
    ended = Job.objects.filter(created_at__gte=day).aggregate(
        failed=Count("pk", filter=Q(status=Status.FAILED)),
        succeeded=Count("pk", filter=Q(status=Status.SUCCEEDED)),
    )
    return [
        _card("Queued", queued, "waiting for a worker", "job", "?status__exact=queued"),
        _card("Running", running, "on a worker", "job", "?status__exact=running"),
        _card(
            "Failed",
            ended["failed"],
            f"in 24 h, {ended['succeeded']} succeeded",
            "job",
            "?status__exact=failed",
            is_bad=ended["failed"] > 0,
        ),
    ]


def _workers() -> list[dict]:
    rows = heartbeat.alive().values("queue").annotate(count=Count("pk"))
    alive = {row["queue"]: row["count"] for row in rows.order_by("queue")}
    note = ", ".join(f"{count} {queue}" for queue, count in alive.items()) or "none is running"
    faulty = heartbeat.alive().exclude(fault="").count()
    if faulty:
        note += f"; {faulty} with a fault"
    is_bad = not alive.get("generation") or faulty > 0
    workers = _card("Workers", sum(alive.values()), note, "worker", is_bad=is_bad)
    return [workers, _schedule(), *_disk()]


def _disk() -> list[dict]:
    try:
        disk = shutil.disk_usage(settings.DATA_DIR)
    except OSError:
        return []  # created with the first file
    free, total = f"{disk.free / 2**30:,.1f} GiB", f"{disk.total / 2**30:,.1f} GiB"
    is_bad = disk.free < attention.MIN_FREE * disk.total
    return [_card("Disk", free, f"free of {total} for images", "job", is_bad=is_bad)]


def _backup() -> dict:
    last = audit.last_backup()
    value, note = ("none", "is known") if last is None else (naturaltime(last), date_format(last))
    is_bad = bool(attention.backup_fault())
    return _card("Last backup", value, note, "auditentry", "?q=backup", is_bad=is_bad)


def _schedule() -> dict:
    """Return the card of beat and the light worker, which rescue jobs and start redistillations."""
    try:
        is_beating = beat_lock.is_held()
    except redis.RedisError:
        return _card("Periodic tasks", "unknown", "Redis does not answer", "worker", is_bad=True)
    stopped = [] if is_beating else ["beat"]
    stopped += [] if heartbeat.is_served(light.QUEUE) else ["the light worker"]
    verb = "do" if len(stopped) > 1 else "does"
    note = f"{' and '.join(stopped)} {verb} not run: start {'them' if verb == 'do' else 'it'}"
    return _card(
        "Periodic tasks",
        "stopped" if stopped else "run",
        note if stopped else "beat and the light worker run",
        "worker",
        is_bad=bool(stopped),
    )


def _releases() -> list[dict]:
    active = Release.objects.filter(status=Release.Status.ACTIVE).order_by("kind").first()
    value = active.name if active else "none"
    note = f"{active.kind}, serves by default" if active else "activate a release"
    return [_card("Release", value, note, "release", is_bad=active is None)]


def _catalogue() -> list[dict]:
    states = catalogue.count_states()
    total = sum(states.values())
    others = [f"{count} {state}" for state, count in states.items() if count and state != "encoded"]
    note = ", ".join(others) or "all encoded"
    return [_card("Catalogue", f"{total:,}", note, "promptvariant", is_bad=states["failed"] > 0)]
