"""Celery tasks of distillation and the bootstep of its worker. Their code is imported when they run, so that processes
that only send messages load no tensor library."""

from celery import shared_task

from distillation import notifications
from distillation.designs import lifecycle as designs
from distillation.examples import lifecycle as examples
from distillation.models import Design, ImageSource, Run
from distillation.runs import announcements, canary, policy
from distillation.runs import lifecycle as runs
from generation.infra.bootstep import QueueStep


@shared_task(name="distillation.wake", ignore_result=True)
def wake(**_: object) -> None:
    """One slice of the oldest queued run."""
    from distillation.worker import process

    process.run()


@shared_task(name="distillation.sweep", ignore_result=True)
def sweep(**_: object) -> None:
    """Give back runs and designs of lost workers; wake a worker while any is queued, or sources wait."""
    runs.rescue()
    designs.rescue()
    queued = Run.objects.filter(status=Run.Status.QUEUED)
    if queued.exists() or Design.objects.filter(status=Design.Status.QUEUED).exists():
        notifications.wake()
    if examples.waiting().exists():
        notifications.curate()


@shared_task(name="distillation.curate", ignore_result=True)
def curate(**_: object) -> None:
    """Read and judge the sources that wait."""
    from distillation.worker import process

    process.curate()


@shared_task(name="distillation.refresh_sources", ignore_result=True)
def refresh_sources(**_: object) -> None:
    """Have every source looked at for what is new."""
    examples.ask(ImageSource.objects.all())


@shared_task(name="distillation.consider", ignore_result=True)
def consider(**_: object) -> None:
    """Decide whether it is time to distil again."""
    policy.consider()


@shared_task(name="distillation.watch_canary", ignore_result=True)
def watch_canary(**_: object) -> None:
    """Promote or withdraw the release that serves a share of the jobs, when enough of them are known."""
    canary.watch()


@shared_task(name="distillation.announce", ignore_result=True)
def announce() -> None:
    """Tell people by mail of candidates that wait for them."""
    announcements.announce()


@shared_task(name="distillation.clean", ignore_result=True)
def clean(**_: object) -> None:
    """Clear away what no run needs any more."""
    from distillation.runs import cleaning

    cleaning.clean()


class DistillationStep(QueueStep):
    """A worker that executes runs and judges pictures of sources."""

    queue = "distillation"

    def begin(self) -> None:
        from distillation.worker import process

        process.begin()
        notifications.wake()
