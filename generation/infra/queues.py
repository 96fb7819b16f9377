"""Queues that every installation has workers for, and the kinds of releases that generation workers serve."""

from generation.infra import heartbeat
from generation.models import Queue, Release

GENERATION = "generation"
REFERENCE = "reference"  # its workers serve only teachers; optional
# Queue → consequence of having no worker for it.
REQUIRED = {
    GENERATION: "no job runs",
    "light": "no job is rescued, and nothing is distilled by schedule",
    "encode": "new prompts wait, and texts outside the catalogue are answered with 503",
    "webhooks": "webhooks wait",
    "distillation": "runs stay queued",
}
CRITICAL = (GENERATION, "light")


def is_split() -> bool:
    """Return whether the jobs of teachers belong to the queue `reference`: a live worker serves it, or it is paused.

    Otherwise the pause would end with the last worker of the queue, when others took its jobs.
    """
    is_paused = Queue.objects.filter(name=REFERENCE, paused_at__isnull=False)
    return heartbeat.is_served(REFERENCE) or is_paused.exists()


def of_kind(kind: str) -> str:
    """Return the queue whose workers currently serve releases of this kind."""
    is_reference = kind == Release.Kind.TEACHER and heartbeat.is_served(REFERENCE)
    return REFERENCE if is_reference else GENERATION
