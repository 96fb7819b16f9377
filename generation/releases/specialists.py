"""Specialists: students in service beside the active one, for the prompts that they make better.

`jobs.routing` decides for each prompt. Activation, rollback and canaries concern only the active student.
"""

from django.db import transaction

from generation.errors import ReleaseRefused
from generation.infra import database, notifications
from generation.models import Release
from generation.releases import lifecycle as releases

Status = Release.Status


def activate(release: Release, *, reason: str = "") -> Release:
    """Make the student a specialist, if it is not one already, and return it. Raises ReleaseRefused.

    reason: of an automatic decision, for the audit log.
    """
    releases.verify(release, hashes=False)
    with transaction.atomic():
        release = check(release, releases.locked(release.kind))
        if release.status == Status.SPECIALIST:
            return release
        release.activated_at, release.retired_at = database.now(), None
        releases.move(release, Status.SPECIALIST, "specialist_activated", reason=reason)
        transaction.on_commit(notifications.encode, robust=True)
    return release


def check(release: Release, rows: list[Release]) -> Release:
    """Return the release's row among the locked rows. Raises ReleaseRefused if it cannot be a specialist."""
    found = next((row for row in rows if row.pk == release.pk), None)
    if found is None:
        raise ReleaseRefused(f"{release.name} is no longer registered.")
    if found.kind != Release.Kind.STUDENT:
        raise ReleaseRefused(f"{found.name} is a {found.kind}; a specialist is a student.")
    if found.status == Status.ACTIVE:
        raise ReleaseRefused(f"{found.name} is the active student. Activate another one first.")
    if found.status == Status.REJECTED:
        raise releases.rejected(found)
    return found


def retire(release: Release) -> Release:
    """Retire a specialist: other releases serve its prompts. It still serves the jobs that were assigned to it.

    Raises ReleaseRefused if the release is not a specialist.
    """
    with transaction.atomic():
        row = Release.objects.select_for_update().get(pk=release.pk)
        if row.status != Status.SPECIALIST:
            raise ReleaseRefused(
                f"{row.name} is {row.status}, not a specialist. The active release retires when another is activated."
            )
        row.retired_at = database.now()
        releases.move(row, Status.RETIRED, "release_retired")
    return row
