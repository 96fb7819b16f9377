"""Queues of generation workers, and their kinds of releases."""

from generation.infra import heartbeat
from generation.models import Release

GENERATION = "generation"
REFERENCE = "reference"  # its workers serve only teachers


def of_kind(kind: str) -> str:
    """Return the queue whose workers currently serve releases of this kind."""
    is_reference = kind == Release.Kind.TEACHER and heartbeat.is_served(REFERENCE)
    return REFERENCE if is_reference else GENERATION
