"""Coverage of a release: written at its registration, and moved into rows by the migration of old databases."""

from datetime import timedelta
from importlib import import_module
from pathlib import Path

import pytest
from django.apps import apps
from django.utils import timezone

from generation.engine.release import PROMPT_EMBEDS, manifest_to_dict
from generation.engine.release import read as read_manifest
from generation.errors import ReleaseRefused
from generation.models import PromptVariant, Release
from generation.releases import coverage
from generation.releases import lifecycle as releases
from tests import tiny
from tests.factories import make_release, make_variant
from tests.generation.students import make_bundle

pytestmark = pytest.mark.django_db

migration = import_module("generation.migrations.0011_coverage")
TEXTS = {"vase": "A  red vase", "mug": "a blue mug"}


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    tiny.make_tiny_release(tmp_path / "teacher", name="teacher-1")
    return tmp_path / "teacher"


@pytest.fixture
def student(tmp_path: Path, teacher: Path) -> Path:
    make_bundle(tmp_path / "student", teacher, TEXTS)
    return tmp_path / "student"


def rows(release: Release) -> dict[str, str]:
    return dict(release.coverage.values_list("slug", "normalized_text"))


# --- registering ----------------------------------------------------------------------------------
def test_a_registered_release_covers_the_texts_that_it_was_made_for(student: Path) -> None:
    release = releases.register(student)

    assert not release.covers_all
    assert rows(release) == {"vase": "a red vase", "mug": "a blue mug"}
    assert "covered_variants" not in release.manifest


def test_a_release_that_names_no_variants_covers_all_of_them(teacher: Path) -> None:
    make_variant(slug="bowl")
    release = releases.register(teacher)

    assert release.covers_all and rows(release) == {}
    assert coverage.covered(release, PromptVariant.objects.all()).count() == 1


def test_a_release_whose_texts_cannot_be_read_is_not_registered(student: Path, monkeypatch) -> None:
    monkeypatch.setattr(releases, "_verified", lambda place, *_, **__: read_manifest(place))
    (student / PROMPT_EMBEDS).write_bytes(b"damaged")

    with pytest.raises(ReleaseRefused, match=PROMPT_EMBEDS):
        releases.register(student)


# --- the migration --------------------------------------------------------------------------------
def as_before(release: Release, covered: list[str]) -> Release:
    """The row as the code before the migration wrote it."""
    release.coverage.all().delete()
    release.manifest["covered_variants"] = covered
    release.covers_all = True
    release.save()
    return release


def migrated(release: Release) -> Release:
    migration.fill(apps, None)
    release.refresh_from_db()
    return release


def test_the_migration_moves_texts_and_slugs_into_rows_and_back(student: Path) -> None:
    release = releases.register(student)
    registered = rows(release)
    before = manifest_to_dict(read_manifest(student))
    as_before(release, ["vase", "mug"])
    assert release.manifest == before

    assert rows(migrated(release)) == registered
    assert (release.covers_all, release.manifest.get("covered_variants")) == (False, None)
    migration.put_back(apps, None)
    release.refresh_from_db()
    assert release.manifest == before


def test_the_migration_keeps_slugs_alone_for_a_release_without_texts() -> None:
    some = as_before(make_release(name="some"), ["vase", "mug"])
    every = as_before(make_release(name="every"), [])

    assert rows(migrated(some)) == {"vase": "", "mug": ""} and not some.covers_all
    assert rows(migrated(every)) == {} and every.covers_all


def test_for_a_release_whose_texts_are_gone_the_migration_keeps_unchanged_variants(
    student: Path,
) -> None:
    release = as_before(releases.register(student), ["vase", "mug", "bowl"])
    make_variant(slug="vase", text="a red vase")
    make_variant(slug="mug", text="another mug", revision=2)
    make_variant(slug="bowl", text="a later bowl")
    PromptVariant.objects.exclude(slug="bowl").update(created_at=timezone.now() - timedelta(days=1))
    (releases.folder(release) / PROMPT_EMBEDS).unlink()

    assert rows(migrated(release)) == {"vase": "a red vase"}
