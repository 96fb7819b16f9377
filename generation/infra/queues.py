"""The queues of generation workers, and which of them serves a kind of release."""

from generation.infra import heartbeat
from generation.models import Release

GENERATION = "generation"
REFERENCE = "reference"  # of workers that hold a teacher alone


def of_kind(kind: str) -> str:
    """Return the queue whose workers serve releases of this kind now."""
    is_reference = kind == Release.Kind.TEACHER and heartbeat.is_served(REFERENCE)
    return REFERENCE if is_reference else GENERATION
