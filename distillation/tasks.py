"""Celery tasks of distillation and the bootstep of its worker. Their code is imported when they run, so that processes
that only send messages load no torch."""

from celery import shared_task

from distillation import notifications
from distillation.designs import lifecycle as designs
from distillation.examples import lifecycle as examples
from distillation.models import Design, ImageSource
from distillation.runs import announcements, canary, policy
from distillation.runs import lifecycle as runs
from generation.infra.bootstep import QueueStep


@shared_task(name="distillation.wake", ignore_result=True)
def wake(**_: object) -> None:
    """Execute a slice of the oldest queued run."""
    from distillation.worker import process

    process.run()


@shared_task(name="distillation.sweep", ignore_result=True)
def sweep(**_: object) -> None:
    """Requeue runs and designs of lost workers, and wake a worker if a run, a design or a source waits."""
    runs.rescue()
    designs.rescue()
    if runs.waiting().exists() or Design.objects.filter(status=Design.Status.QUEUED).exists():
        notifications.wake()
    if examples.waiting().exists():
        notifications.curate()


@shared_task(name="distillation.curate", ignore_result=True)
def curate(**_: object) -> None:
    """Read image sources that wait, and judge their pictures."""
    from distillation.worker import process

    process.curate()


@shared_task(name="distillation.refresh_sources", ignore_result=True)
def refresh_sources(**_: object) -> None:
    """Request ingestion of the new files of every image source."""
    examples.request_ingestion(ImageSource.objects.all())


@shared_task(name="distillation.consider", ignore_result=True)
def consider(**_: object) -> None:
    """Decide whether to start a run, and start it."""
    policy.consider()


@shared_task(name="distillation.watch_canary", ignore_result=True)
def watch_canary(**_: object) -> None:
    """Promote or withdraw a canary when enough of its jobs have ended."""
    canary.watch()


@shared_task(name="distillation.announce", ignore_result=True)
def announce() -> None:
    """Send mails about candidates that wait for a person's decision."""
    announcements.announce()


@shared_task(name="distillation.clean", ignore_result=True)
def clean(**_: object) -> None:
    """Delete data that no run needs any more."""
    from distillation.runs import cleaning

    cleaning.clean()


class DistillationStep(QueueStep):
    """Bootstep of a worker that executes runs and judges pictures of sources."""

    queue = "distillation"

    def begin(self) -> None:
        from distillation.worker import process

        process.begin()
        notifications.wake()
