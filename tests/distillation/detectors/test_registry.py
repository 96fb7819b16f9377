"""Detector versions: one is active, versions are immutable, one is included."""

import json

import pytest

from distillation.detectors import registry as detectors
from distillation.errors import DetectorRefused
from distillation.models import Detector
from distillation.runs import inputs
from tests.distillation.detector.folders import make_version
from tests.factories import make_release

pytestmark = pytest.mark.django_db

Status = Detector.Status


@pytest.fixture
def none_shipped(monkeypatch, tmp_path):
    monkeypatch.setattr(detectors, "SHIPPED", tmp_path / "nothing")


# --- registering ----------------------------------------------------------------------------------
def test_a_registered_folder_is_copied_and_stored_in_a_row(tmp_path):
    row = detectors.register(make_version(tmp_path / "made", name="mine", with_mask=True))
    assert (row.name, row.status) == ("mine", Status.CANDIDATE)
    assert row.bits == ["red", "green", "blue", "sharp", "whole", "large"]
    assert detectors.folder(row) == detectors.root() / "mine"
    assert (detectors.folder(row) / "segmentation" / "model.safetensors").is_file()
    row.refresh_from_db()
    assert row.manifest["figures"] == {"seconds": 1.5}


def test_only_files_that_the_version_names_are_copied(tmp_path):
    folder = make_version(tmp_path / "made")
    (folder / "notes.txt").write_text("private")
    assert not (detectors.folder(detectors.register(folder)) / "notes.txt").exists()


def test_a_name_is_registered_once(tmp_path):
    detectors.register(make_version(tmp_path / "one", name="mine"))
    with pytest.raises(DetectorRefused, match="mine is already registered"):
        detectors.register(make_version(tmp_path / "two", name="mine"))


def test_an_interrupted_registration_can_be_repeated(tmp_path):
    folder = make_version(tmp_path / "made", name="mine")
    path = detectors.register(folder).path
    Detector.objects.all().delete()  # the process ended after the copy, before the commit
    assert detectors.register(folder).path == path


def test_a_folder_without_a_detector_is_refused(tmp_path):
    with pytest.raises(DetectorRefused, match="holds no usable detector"):
        detectors.register(tmp_path)
    assert not Detector.objects.exists()


# --- activating -----------------------------------------------------------------------------------
def test_activating_a_version_retires_the_other(tmp_path):
    one, two = (
        detectors.register(make_version(tmp_path / name, name=name)) for name in ("one", "two")
    )
    for first, second in ((one, two), (two, one)):
        detectors.activate(first)
        assert detectors.active() == first
        detectors.activate(second)
        first.refresh_from_db()
        assert first.status == Status.RETIRED and detectors.active() == second


def test_a_version_whose_files_changed_is_not_activated(tmp_path):
    row = detectors.register(make_version(tmp_path / "made"))
    path = detectors.folder(row) / "detector.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"required": []}))
    with pytest.raises(DetectorRefused, match="changed after toy was registered"):
        detectors.activate(row)
    (detectors.folder(row) / "config.json").unlink()
    with pytest.raises(DetectorRefused, match="no usable detector"):
        detectors.activate(row)
    assert not Detector.objects.filter(status=Status.ACTIVE).exists()


# --- out of the box -------------------------------------------------------------------------------
def test_the_shipped_version_is_active_if_none_was_registered():
    row = detectors.active()
    assert row is not None and row.status == Status.ACTIVE
    assert detectors.folder(row).resolve() == detectors.SHIPPED.resolve()
    assert not row.path.startswith("/")  # so that the project may move
    assert detectors.active() == row and Detector.objects.count() == 1


def test_the_shipped_version_is_complete_and_caught_the_planted_defects():
    from distillation.detector import judge

    made = judge.load(detectors.SHIPPED)
    assert made.required == ("sharp", "clean", "whole", "large") and len(made.bits) == 27
    test = made.version.figures["test"]
    assert test["bad_caught"] >= 0.95 * test["bad"] and test["good_lost"] <= 0.03 * test["good"]
    assert sum(file.size_bytes for file in made.version.files) < 3.6e6


def test_tags_are_grouped_by_the_groups_of_the_active_version():
    assert detectors.tag_kinds() == ()
    detectors.active()
    first, second, *_, last = detectors.tag_kinds()
    assert "vase" in first and "red" in second and last == ("table", "slab", "cloth")


def test_the_shipped_version_is_not_activated_after_another_was_registered(tmp_path):
    detectors.register(make_version(tmp_path / "made"))
    assert detectors.active() is None


def test_no_version_is_active_if_none_is_shipped(none_shipped):
    assert detectors.active() is None and not Detector.objects.exists()


# --- the judge of a run ---------------------------------------------------------------------------
def make_teacher(name: str, side: int = 32):
    release = make_release(name=name, kind="teacher")
    release.manifest["image_sizes"] = [[side, side]]
    release.save()
    return release


def test_a_run_is_judged_by_the_active_version_if_its_size_fits(tmp_path):
    row = detectors.activate(detectors.register(make_version(tmp_path / "made")))
    assert inputs._active_detector(make_teacher("fits")) == detectors.folder(row)
    assert inputs._active_detector(make_teacher("larger", 64)) is None


def test_the_shipped_version_judges_only_pictures_of_the_starter():
    size = detectors.active().manifest["image_size"]
    assert inputs._active_detector(make_teacher("other", size)) is None
    found = inputs._active_detector(make_teacher("starter-teacher-2", size))
    assert found is not None and found.resolve() == detectors.SHIPPED.resolve()
