"""Judging of generated images by the active detector, for releases whose images it knows."""

import shutil

import numpy as np
import pytest
import torch

from distillation.detector import network as networks
from distillation.detector import nudity
from distillation.detector.errors import DetectorUnusable
from distillation.detectors import loading, result_judge
from distillation.detectors import registry as detectors
from distillation.models import Detector
from distillation.runs.inputs import STARTER_JUDGES
from tests.factories import make_release

pytestmark = pytest.mark.django_db

TAGS = ["mug", "green", "metal", "slab"]


@pytest.fixture(autouse=True)
def empty_caches():
    """Clear the caches, as in a process that has not judged yet."""
    result_judge._active.cache_clear()
    result_judge._loaded.cache_clear()


@pytest.fixture
def starter():
    return make_release(name=detectors.STARTER_TEACHER, kind="teacher")


def picture(size: int = 128) -> np.ndarray:
    """Return a plain grey picture, which shows no bit of the detector."""
    return np.full((size, size, 3), 128, dtype=np.uint8)


def test_a_blank_picture_fails_the_tags_of_its_variant(starter):
    judge = result_judge.judge(starter)

    (finding,) = judge([picture()], [TAGS])

    assert not finding.is_accepted and finding.failing
    assert finding.detector == Detector.objects.get(status="active").name
    assert 0 <= finding.score < 0.5


def test_pictures_of_any_size_are_judged(starter):
    found = result_judge.judge(starter)([picture(64), picture(512)], [TAGS, TAGS])

    assert [finding.is_accepted for finding in found] == [False, False]


def test_a_tag_that_excludes_a_bit_fails_if_the_bit_is_present(starter):
    judge, detector = result_judge.judge(starter), detectors.active()
    network = networks.load(detectors.folder(detector))
    image = torch.from_numpy(picture()).permute(2, 0, 1)[None]
    present = (network.probabilities(image)[0] >= network.thresholds).tolist()

    bits = detector.bits[: len(present)]  # the classifier's; those of quality and mask follow

    found = judge([picture()] * len(bits), [[f"not-{bit}"] for bit in bits])

    fails = [bit in finding.failing for bit, finding in zip(bits, found, strict=True)]
    assert fails == present


def test_a_soft_result_fails_only_if_its_variant_requires_sharp(starter):
    """A plain grey picture is not sharp."""
    judge = result_judge.judge(starter)

    (finding,), (required,) = judge([picture()], [[]]), judge([picture()], [["sharp"]])

    assert "sharp" not in finding.failing
    assert "sharp" in required.failing


def test_the_shipped_detector_judges_only_releases_of_the_starter(starter):
    assert result_judge.judge(make_release(name="own", parent="somebody-elses")) is None
    assert result_judge.judge(make_release(name="student", parent=starter.name)) is not None


def test_another_active_version_judges_without_a_restart(starter, tmp_path):
    first = result_judge.judge(starter)([picture()], [TAGS])[0].detector
    other = tmp_path / "stricter"
    shutil.copytree(STARTER_JUDGES / "detector", other)
    detectors.activate(detectors.register(other))

    result_judge._active.cache_clear()  # some seconds later

    assert result_judge.judge(starter)([picture()], [TAGS])[0].detector == "stricter" != first


# --- nudity ---------------------------------------------------------------------------------------
def test_the_bit_of_nudity_is_required_only_if_configured(starter, settings):
    pytest.importorskip("nudenet")
    detector = detectors.active()
    assert "safe" not in loading.load(detector).bits
    settings.NSFW_BIT = True

    judge = loading.load(detector)

    assert judge.required[-1] == judge.bits[-1] == "safe"
    (judgement,) = judge.judge(torch.full((1, 3, 128, 128), 128).byte(), present=[[]], absent=[[]])
    assert judgement.probabilities["safe"] == 1.0 and "safe" not in judgement.failing


def test_a_missing_library_of_nudity_is_reported_with_what_to_install(
    starter, settings, monkeypatch
):
    settings.NSFW_BIT = True
    monkeypatch.setattr(nudity, "LIBRARY", "a_library_that_nobody_wrote")

    with pytest.raises(DetectorUnusable, match="pip install a_library"):
        loading.load(detectors.active())
