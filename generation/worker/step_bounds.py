"""Bound of the time between two steps of a batch, from measured times."""

from django.conf import settings

from generation.infra.stalls import unknown_bound
from generation.jobs import throughput
from generation.jobs.throughput import Curve

TIMES_MEASURED = 20  # in multiples of the measured time of a step


def step_bound(measured: Curve, images: int, *, steps: int) -> float:
    """Return the maximum of seconds between two steps of a batch of so many images."""
    seconds = throughput.at(measured, images)
    if seconds is None:
        return unknown_bound()
    return max(settings.STALL_SECONDS, TIMES_MEASURED * seconds.p90 / steps)
