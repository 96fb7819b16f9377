"""Constraints of rows that workers hold by a lease: runs and designs."""

from django.db.models import BaseConstraint, CheckConstraint, Q


def lease_constraints(rows: str) -> list[BaseConstraint]:
    """Return the constraints: only running rows have a lease, only ended ones a time. rows: the noun in the names."""
    return [
        CheckConstraint(
            condition=Q(status="running", lease_expires_at__isnull=False)
            | (~Q(status="running") & Q(lease_expires_at__isnull=True)),
            name=f"running_{rows}_have_a_lease",
        ),
        CheckConstraint(
            condition=Q(status__in=("queued", "running", "paused"), finished_at__isnull=True)
            | Q(status__in=("succeeded", "failed", "canceled"), finished_at__isnull=False),
            name=f"ended_{rows}_have_a_time",
        ),
    ]
