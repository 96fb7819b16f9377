"""Pause of a training between two steps while jobs of generation wait or run."""

import time
from collections.abc import Callable

from django.conf import settings

from generation.infra import stalls
from generation.jobs import claiming
from generation.models import Job

LOOK_SECONDS = 0.05  # between two queries for jobs


def give_way(is_over: Callable[[], bool]) -> None:
    """Pause while jobs run, or wait for a worker: not while their queue is paused, or for their next attempt."""
    while settings.DISTILLATION_YIELDS and not is_over():
        running = Job.objects.filter(status=Job.Status.RUNNING)
        if not running.exists() and claiming.oldest() is None:
            return
        stalls.progressed()  # the pause is not a stall, however long
        time.sleep(LOOK_SECONDS)
