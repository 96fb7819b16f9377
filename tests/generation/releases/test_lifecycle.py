"""Lifecycle of a release: activation, rollback, canary, rejection."""

import json
import shutil
import threading
from pathlib import Path

import pytest
from django.db import connection
from structlog.testing import capture_logs

from generation.errors import ReleaseRefused
from generation.infra import notifications
from generation.models import Release
from generation.releases import lifecycle as releases
from tests import tiny

pytestmark = pytest.mark.django_db


@pytest.fixture
def root(settings) -> Path:
    settings.RELEASES_ROOT.mkdir(parents=True)
    return settings.RELEASES_ROOT


def registered(root: Path, name: str = "tiny", **options) -> Release:
    tiny.make_tiny_release(root / name, name=name, **options)
    return releases.register(root / name)


def status_of(release: Release) -> str:
    return Release.objects.get(pk=release.pk).status


# --- registering ----------------------------------------------------------------------------------
def test_a_release_in_another_folder_is_copied_and_becomes_a_candidate(
    tmp_path: Path, settings
) -> None:
    manifest = tiny.make_tiny_release(tmp_path / "made", name="tiny")
    release = releases.register(tmp_path / "made")
    shutil.rmtree(tmp_path / "made")
    assert release.status == "candidate"
    assert (release.kind, release.has_encoder) == ("teacher", True)
    assert release.encoder_fingerprint == manifest.encoder_fingerprint
    assert release.size_bytes == sum(file.size_bytes for file in manifest.files)
    assert releases.folder(release) == settings.RELEASES_ROOT / "tiny"
    assert releases.verify(release) == manifest
    assert [path.name for path in settings.RELEASES_ROOT.iterdir()] == ["tiny"]


def test_a_release_in_the_releases_folder_is_used_in_place(root: Path) -> None:
    release = registered(root)
    assert releases.folder(release) == root / "tiny"
    assert [path.name for path in root.iterdir()] == ["tiny"]


def test_the_starter_is_used_in_place_and_may_move_with_the_project(settings) -> None:
    release = releases.register(releases.STARTER / "teacher-2")
    assert release.path == "generation/starter/teacher-2"
    assert releases.folder(release) == settings.BASE_DIR / "generation/starter/teacher-2"
    assert not settings.RELEASES_ROOT.exists()


def test_registering_requests_embeddings(
    root: Path, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks
) -> None:
    sent: list[str] = []
    monkeypatch.setattr(notifications, "encode", lambda: sent.append("encode"))
    with django_capture_on_commit_callbacks(execute=True):
        registered(root)
    assert sent == ["encode"]


def test_an_altered_release_is_not_registered(root: Path) -> None:
    tiny.make_tiny_release(root / "tiny")
    (root / "tiny/unet/config.json").write_text("{}")
    with pytest.raises(ReleaseRefused, match="changed or is incomplete"):
        releases.register(root / "tiny")
    assert not Release.objects.exists()


def test_a_name_can_be_registered_once(root: Path, tmp_path: Path) -> None:
    registered(root)
    tiny.make_tiny_release(tmp_path / "other", name="tiny", seed=1)
    with pytest.raises(ReleaseRefused, match="already registered"):
        releases.register(tmp_path / "other")
    assert Release.objects.count() == 1


def test_a_release_cannot_be_renamed(root: Path) -> None:
    tiny.make_tiny_release(root / "tiny")
    with pytest.raises(ReleaseRefused, match="has the name tiny"):
        releases.register(root / "tiny", name="other")


def test_an_unregistered_folder_is_not_overwritten(root: Path, tmp_path: Path) -> None:
    (root / "tiny").mkdir()
    (root / "tiny/precious").write_text("x")
    tiny.make_tiny_release(tmp_path / "made")
    with pytest.raises(ReleaseRefused, match="already exists"):
        releases.register(tmp_path / "made")
    assert (root / "tiny/precious").read_text() == "x"


def test_an_interrupted_registration_can_be_repeated(tmp_path: Path) -> None:
    tiny.make_tiny_release(tmp_path / "made")
    path = releases.register(tmp_path / "made").path
    Release.objects.all().delete()  # the process ended after the copy, before the commit
    assert releases.register(tmp_path / "made").path == path


def test_another_release_of_the_same_name_is_not_used_instead(tmp_path: Path) -> None:
    for seed, folder in enumerate((tmp_path / "one", tmp_path / "two")):
        tiny.make_tiny_release(folder, seed=seed)
    releases.register(tmp_path / "one")
    Release.objects.all().delete()
    with pytest.raises(ReleaseRefused, match="already exists"):
        releases.register(tmp_path / "two")


def test_progress_is_reported_in_bytes(tmp_path: Path) -> None:
    reported: list[tuple[int, int]] = []
    tiny.make_tiny_release(tmp_path / "made")
    release = releases.register(
        tmp_path / "made", on_progress=lambda done, total: reported.append((done, total))
    )
    assert reported[-1] == (release.size_bytes, release.size_bytes)


# --- changes of status ----------------------------------------------------------------------------
def test_activating_retires_the_active_one_of_its_kind_only(root: Path) -> None:
    student = releases.activate(registered(root, "student-1", kind="student"))
    first = releases.activate(registered(root, "first"))
    second = releases.activate(registered(root, "second", seed=1))
    assert second.replaced == first
    assert second.activated_at is not None
    first.refresh_from_db()
    assert (first.status, first.retired_at is not None) == ("retired", True)
    assert status_of(student) == "active"


def test_activating_the_active_one_changes_nothing(root: Path) -> None:
    first = releases.activate(registered(root, "first"))
    again = releases.activate(first)
    assert (again.status, again.replaced, again.activated_at) == (
        "active",
        None,
        first.activated_at,
    )


def test_a_rejected_release_is_never_activated(root: Path) -> None:
    release = releases.reject(registered(root))
    with pytest.raises(ReleaseRefused, match="was rejected"):
        releases.activate(release)
    assert status_of(release) == "rejected"


def test_a_release_whose_files_are_missing_or_truncated_is_not_activated(root: Path) -> None:
    active = releases.activate(registered(root, "active"))
    gone, torn, swapped = (registered(root, name) for name in ("gone", "torn", "swapped"))
    shutil.rmtree(root / "gone")
    (root / "torn/unet/config.json").write_text("{")
    manifest = json.loads((root / "swapped/release.json").read_text())
    (root / "swapped/release.json").write_text(json.dumps({**manifest, "guidance_scale": 1.5}))
    for release, message in (
        (gone, "is missing"),
        (torn, "changed or is incomplete"),
        (swapped, "was changed after"),
    ):
        with pytest.raises(ReleaseRefused, match=message):
            releases.activate(release)
    assert status_of(active) == "active"


def test_a_rollback_goes_back_step_by_step(root: Path) -> None:
    first, second, third = (
        releases.activate(registered(root, name)) for name in ("first", "second", "third")
    )
    assert releases.rollback("teacher") == second
    assert releases.rollback("teacher") == first
    assert (status_of(first), status_of(second), status_of(third)) == (
        "active",
        "retired",
        "retired",
    )
    with pytest.raises(ReleaseRefused, match="replaced no release"):
        releases.rollback("teacher")
    assert status_of(first) == "active"


def test_a_rollback_of_a_release_that_is_not_active_is_refused(root: Path) -> None:
    first, second = (releases.activate(registered(root, name)) for name in ("first", "second"))
    with pytest.raises(ReleaseRefused, match="first is not active; second is"):
        releases.rollback("teacher", expected=first)
    assert status_of(second) == "active"
    assert releases.rollback("teacher", expected=second) == first


def test_a_rollback_to_a_rejected_release_is_refused(root: Path) -> None:
    first, second = (releases.activate(registered(root, name)) for name in ("first", "second"))
    releases.reject(first)
    with pytest.raises(ReleaseRefused, match="first, which second replaced, was rejected"):
        releases.rollback("teacher")
    assert status_of(second) == "active"


def test_without_an_active_release_there_is_nothing_to_roll_back(root: Path) -> None:
    registered(root)
    with pytest.raises(ReleaseRefused, match="No teacher is active"):
        releases.rollback("teacher")


def test_the_active_release_cannot_be_rejected(root: Path) -> None:
    release = releases.activate(registered(root))
    with pytest.raises(ReleaseRefused, match="Activate another first"):
        releases.reject(release)
    assert status_of(release) == "active"


def test_every_change_of_status_is_one_log_line(root: Path) -> None:
    first, second = registered(root, "first"), registered(root, "second")
    with capture_logs() as lines:
        releases.activate(first)
        releases.activate(second)
        releases.reject(first)
    moves = [
        (line["release"], line["before"], line["after"])
        for line in lines
        if line["event"] == "release_moved"
    ]
    assert moves == [
        ("first", "candidate", "active"),
        ("first", "active", "retired"),
        ("second", "candidate", "active"),
        ("first", "retired", "rejected"),
    ]


@pytest.mark.django_db(transaction=True)
def test_two_concurrent_activations_succeed_one_after_the_other(root: Path) -> None:
    first, second = registered(root, "first"), registered(root, "second")
    barrier = threading.Barrier(2)
    errors: list[Exception] = []

    def activate(release: Release) -> None:
        try:
            barrier.wait()
            releases.activate(release)
        except Exception as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=activate, args=(row,)) for row in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted((status_of(first), status_of(second))) == ["active", "retired"]
    active = Release.objects.get(status="active")
    assert active.replaced is not None
    assert active.replaced.status == "retired"


# --- queries --------------------------------------------------------------------------------------
def test_each_encoder_in_use_is_listed_with_one_release_that_contains_it(root: Path) -> None:
    teacher = registered(root, "teacher-1")
    registered(root, "teacher-2", seed=1)
    registered(root, "student-1", kind="student", has_encoder=False)
    assert releases.encoders_in_use() == [teacher]


def test_the_encoder_of_a_retired_teacher_stays_in_use_for_its_student(root: Path) -> None:
    teacher = releases.activate(registered(root, "teacher-1"))
    student = registered(root, "student-1", kind="student", has_encoder=False)
    Release.objects.filter(pk=teacher.pk).update(status="retired")
    assert releases.encoders_in_use() == [teacher]
    releases.reject(student)
    assert releases.encoders_in_use() == []


def test_verifying_finds_a_changed_byte(root: Path) -> None:
    release = registered(root)
    path = root / "tiny/vae/diffusion_pytorch_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ReleaseRefused, match="SHA-256 differs"):
        releases.verify(release)
