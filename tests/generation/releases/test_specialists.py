"""Specialists: a student in service beside the active one, until it is retired."""

from pathlib import Path

import pytest

from generation.errors import ReleaseRefused
from generation.models import AuditEntry, Release
from generation.releases import lifecycle as releases
from generation.releases import specialists
from tests import tiny

pytestmark = pytest.mark.django_db


@pytest.fixture
def students(settings) -> list[Release]:
    """Two students, the first of them active."""
    found = []
    for name in ("main", "vases"):
        tiny.make_tiny_release(settings.RELEASES_ROOT / name, name=name, kind="student")
        found.append(releases.register(settings.RELEASES_ROOT / name))
    return [releases.activate(found[0]), found[1]]


def statuses() -> dict[str, str]:
    return dict(Release.objects.values_list("name", "status"))


def test_a_specialist_serves_beside_the_active_student_until_it_is_retired(students):
    served = specialists.activate(students[1], reason="better at vases")
    assert statuses() == {"main": "active", "vases": "specialist"}
    assert [release.name for release in releases.in_service()] == ["main", "vases"]
    assert releases.active("student") == students[0]
    assert specialists.activate(served).activated_at == served.activated_at
    retired = specialists.retire(served)
    assert statuses() == {"main": "active", "vases": "retired"}
    assert retired.retired_at is not None
    actions = list(AuditEntry.objects.filter(subject="vases").values_list("action", flat=True))
    assert sorted(actions) == ["release_registered", "release_retired", "specialist_activated"]


def test_activation_and_rollback_affect_only_the_active_student(settings, students):
    specialists.activate(students[1])
    tiny.make_tiny_release(settings.RELEASES_ROOT / "third", name="third", kind="student")
    third = releases.activate(releases.register(settings.RELEASES_ROOT / "third"))
    assert third.replaced == students[0]
    assert releases.rollback("student") == students[0]
    assert statuses() == {"main": "active", "vases": "specialist", "third": "retired"}
    releases.activate(Release.objects.get(name="vases"))
    assert statuses() == {"main": "retired", "vases": "active", "third": "retired"}


def test_a_teacher_or_a_release_in_service_cannot_become_a_specialist(settings, students):
    tiny.make_tiny_release(settings.RELEASES_ROOT / "large", name="large")
    teacher = releases.register(settings.RELEASES_ROOT / "large")
    with pytest.raises(ReleaseRefused, match="a specialist is a student"):
        specialists.activate(teacher)
    with pytest.raises(ReleaseRefused, match="main is the active student"):
        specialists.activate(students[0])
    with pytest.raises(ReleaseRefused, match="active, not a specialist"):
        specialists.retire(students[0])
    releases.reject(students[1])
    with pytest.raises(ReleaseRefused, match="was rejected"):
        specialists.activate(students[1])


def test_damaged_files_are_refused(students):
    (Path(students[1].path) / "unet/config.json").unlink()
    with pytest.raises(ReleaseRefused):
        specialists.activate(students[1])
    assert statuses()["vases"] == "candidate"
