"""Open issues for the first page of the admin: servers, workers, disk, jobs, prompts and webhooks."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum

import redis
from django.conf import settings
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.formats import date_format

from generation.access import audit
from generation.catalogue.standing import Overview, Standing
from generation.infra import beat_lock, heartbeat, queues
from generation.models import Delivery, Job, Release
from generation.releases import quality

MIN_FREE = 0.1  # of the disk
# Query of the page of an item, which `distillation` completes.
NOT_COVERED = f"?standing={Standing.WAITING}"


class Level(IntEnum):
    """Severity of an item, in the order of the list. css: its class."""

    CRITICAL = 1  # something does not work
    WARNING = 2
    DECISION = 3  # needs a person's decision

    @property
    def css(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Item:
    """An open issue. advice: what to do. url: where to do it."""

    level: Level
    text: str
    advice: str
    url: str


def items(request: HttpRequest) -> Iterator[Item]:
    """Yield the issues that the user may see."""
    may = request.user.has_perm
    if may("generation.view_worker"):
        yield from _processes()
        yield from _disk()
    if may("generation.view_auditentry") and (fault := backup_fault()):
        advice = "Run manage.py backup every night, or set BACKUP_MAX_AGE_DAYS=0 if you back up by other means."
        yield Item(Level.WARNING, fault, advice, page("auditentry", "?q=backup"))
    if may("generation.view_release"):
        yield from _releases()
    if may("generation.view_job"):
        yield from _jobs()
    if may("generation.view_promptvariant"):
        yield from _catalogue()
    if may("generation.view_delivery"):
        yield from _webhooks()


def count(number: int, one: str, many: str = "") -> str:
    """Return "1 prompt" or "2 prompts"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def page(model: str, query: str = "", app: str = "generation") -> str:
    return reverse(f"admin:{app}_{model}_changelist") + query


def _processes() -> Iterator[Item]:
    alive = set(heartbeat.alive().values_list("queue", flat=True))
    for queue, without in queues.REQUIRED.items():
        if queue not in alive:
            level = Level.CRITICAL if queue in queues.CRITICAL else Level.WARNING
            text = f"No {queue} worker runs: {without}"
            yield Item(level, text, "Start one, and read its log.", page("worker"))
    try:
        is_beating: bool = beat_lock.is_held()
    except redis.RedisError:
        yield Item(Level.CRITICAL, "Redis does not answer", "Start it.", page("worker"))
    else:
        if not is_beating:
            text = "Beat does not run: jobs are rescued later, and nothing is distilled by schedule"
            yield Item(Level.CRITICAL, text, "Start it.", page("worker"))
    for worker in heartbeat.alive().exclude(fault="").order_by("name"):
        text = f"{worker.name} accepts no jobs: {worker.fault}"
        advice = worker.fault_detail or "The cause is on its page. It retries automatically."
        yield Item(Level.CRITICAL, text, advice, page("worker"))


def _disk() -> Iterator[Item]:
    try:
        disk = shutil.disk_usage(settings.DATA_DIR)
    except OSError:
        return  # created with the first file
    if disk.free < MIN_FREE * disk.total:
        text = f"{disk.free / 2**30:,.1f} GiB of {disk.total / 2**30:,.1f} GiB are free for images"
        advice = "Set RETENTION_DAYS, or add disk space."
        yield Item(Level.CRITICAL, text, advice, page("job"))


def backup_fault() -> str:
    """Return what is wrong with the last backup, or ""."""
    if not settings.BACKUP_MAX_AGE_DAYS:
        return ""
    last = audit.last_backup()
    if last is None:
        return "No backup is known: lost data could not be recovered"
    if timezone.now() - last > timedelta(days=settings.BACKUP_MAX_AGE_DAYS):
        return f"The last backup is of {date_format(last, 'DATE_FORMAT')}"
    return ""


def _releases() -> Iterator[Item]:
    if not Release.objects.filter(status=Release.Status.ACTIVE).exists():
        advice = "Activate one."
        yield Item(Level.CRITICAL, "No release is active: no job can run", advice, page("release"))


def _jobs() -> Iterator[Item]:
    day = timezone.now() - timedelta(days=1)
    failed = Job.objects.filter(created_at__gte=day, status=Job.Status.FAILED)
    if number := failed.count():
        codes = failed.order_by("error_code").values_list("error_code", flat=True).distinct()
        text = f"{count(number, 'job')} failed in 24 hours: {', '.join(codes[:3])}"
        advice = "The errors are on their pages. Retry them when the cause is fixed."
        yield Item(Level.WARNING, text, advice, page("job", "?status__exact=failed"))


def _catalogue() -> Iterator[Item]:
    overview = Overview.now()
    if number := overview.counts[Standing.FAILING]:
        text = f"{count(number, 'prompt')} not encoded, or served by no release"
        where = page("promptvariant", f"?standing={Standing.FAILING}")
        yield Item(Level.WARNING, text, "The reasons are on their pages.", where)
    if overview.serving.student is None:
        return
    if number := overview.counts[Standing.WAITING]:
        text = f"{count(number, 'prompt')} not covered by the student"
        advice = "Start a run, or wait for the schedule."
        where = page("promptvariant", NOT_COVERED)
        yield Item(Level.DECISION, text, advice, where)
    if number := overview.counts[Standing.WEAK]:
        share = f"{quality.limit():.0%}"
        text = f"{count(number, 'prompt')} weak: fewer than {share} of the pictures are right"
        advice = "Look at their pictures. Start another run, or change their texts."
        where = page("promptvariant", f"?standing={Standing.WEAK}")
        yield Item(Level.DECISION, text, advice, where)


def _webhooks() -> Iterator[Item]:
    if number := Delivery.objects.filter(status=Delivery.Status.DEAD).count():
        text = f"{count(number, 'webhook delivery', 'webhook deliveries')} given up"
        advice = "Send them again when the receiver answers."
        yield Item(Level.WARNING, text, advice, page("delivery", "?status__exact=dead"))
