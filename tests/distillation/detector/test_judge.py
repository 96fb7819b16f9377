"""Judgement of pictures by tags and required bits, by the rule of the evaluation."""

from itertools import product
from pathlib import Path

import pytest
import torch

from distillation.detector import judge
from distillation.detector.errors import DetectorUnusable
from distillation.evaluation import attributes
from distillation.trainers.catalogue import bits_of
from tests.distillation.detector.folders import SIZE, FixedJudge, make_version

#        red  green blue sharp
SURE = [[0.9, 0.05, 0.2, 0.8]]
IMAGE = torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_version(tmp_path / "toy")


def judged(folder: Path, given=SURE, *, present=(), absent=()) -> judge.Judgement:
    return FixedJudge(folder, given).judge(IMAGE, present=[present], absent=[absent])[0]


def test_a_picture_that_shows_its_tags_is_accepted(folder):
    found = judged(folder, present={"red", "shiny"})
    assert found.is_accepted and found.failing == ()
    assert found.score == pytest.approx(0.8)  # of the least certain bits: sharp, and not blue
    assert found.probabilities == pytest.approx(
        dict(zip(("red", "green", "blue", "sharp"), SURE[0], strict=True))
    )


def test_the_wanted_bit_must_be_the_likeliest_of_its_group_whatever_its_threshold(folder):
    assert judged(folder, [[0.3, 0.2, 0.1, 0.9]], present={"red"}).is_accepted
    assert judged(folder, present={"green"}).failing == ("green",)


def test_within_the_margin_of_the_version_another_bit_may_be_likelier(tmp_path):
    folder = make_version(tmp_path / "toy", margin=0.3)
    assert judged(folder, [[0.5, 0.7, 0.1, 0.9]], present={"red"}).is_accepted
    assert judged(folder, [[0.3, 0.7, 0.1, 0.9]], present={"red"}).failing == ("red",)
    both = judged(folder, [[0.5, 0.7, 0.1, 0.9]], present={"red", "green"})
    assert both.failing == ("red",)


def test_a_required_bit_must_be_present_unless_the_variant_excludes_it(folder):
    blurred = [[0.9, 0.05, 0.2, 0.1]]
    assert judged(folder, blurred).failing == ("sharp",)
    assert judged(folder, blurred, absent={"sharp"}).is_accepted
    assert judged(folder, SURE, absent={"sharp"}).failing == ("sharp",)


def test_the_caller_may_require_less_than_the_version_does(folder):
    judging = FixedJudge(folder, [[0.9, 0.05, 0.2, 0.1]])
    assert judging.judge(IMAGE, present=[()], absent=[()], required=())[0].is_accepted
    assert not judging.judge(IMAGE, present=[()], absent=[()])[0].is_accepted
    with pytest.raises(ValueError, match="cannot require cosy"):
        judging.judge(IMAGE, present=[()], absent=[()], required=("cosy",))


def test_an_absent_bit_is_judged_by_its_threshold(folder):
    assert judged(folder, absent={"red"}).failing == ("red",)
    assert judged(folder, absent={"blue"}).is_accepted


def test_contradictory_tags_always_fail(folder):
    assert "green" in judged(folder, present={"red", "green"}).failing
    assert judged(folder, present={"red"}, absent={"red"}).failing == ("red",)


def test_failing_bits_are_in_the_order_of_the_bits(folder):
    found = judged(folder, [[0.1, 0.7, 0.9, 0.2]], present={"red"}, absent={"sharp"})
    assert found.failing == ("red",)
    found = judged(folder, [[0.1, 0.7, 0.9, 0.2]], present={"green"}, absent={"blue"})
    assert found.failing == ("green", "sharp")


def test_a_picture_without_tags_and_required_bits_is_accepted(tmp_path):
    folder = make_version(tmp_path / "toy", required=())
    found = judged(folder)
    assert found.is_accepted and found.score == 1


def test_the_judge_decides_as_the_evaluation_does(tmp_path):
    folder = make_version(tmp_path / "toy", required=())
    torch.manual_seed(1)
    given = torch.rand(40, 4)
    judging = FixedJudge(folder, given.tolist())
    for tags in product((None, "red", "blue"), (None, "sharp")):
        present = {tag for tag in tags if tag}
        stated, wanted = bits_of([present], judging.bits, judging.groups)
        right = attributes.groups_right(
            given, wanted=wanted[0], stated=stated[0], groups=judging.groups, thresholds=judging.thresholds
        ).all(1)  # fmt: skip
        found = judging.judge(
            IMAGE.expand(40, -1, -1, -1), present=[present] * 40, absent=[()] * 40
        )
        assert [one.is_accepted for one in found] == right.tolist()


def test_bits_of_the_mask_follow_those_of_the_classifier(tmp_path):
    made = judge.load(make_version(tmp_path / "toy", with_mask=True))
    assert made.bits[-2:] == ("whole", "large") and made.groups[-2:] == (1, 1)
    assert made.thresholds.shape == (6,)
    p = made.probabilities(IMAGE.expand(3, -1, -1, -1))
    assert p.shape == (3, 6) and p.dtype == torch.float32
    assert made.probabilities(IMAGE[:0]).shape == (0, 6)


def test_a_plain_classifier_loads_and_requires_nothing(folder):
    (folder / "detector.json").unlink()
    made = judge.load(folder)
    assert (made.name, made.required, made.image_size) == ("toy", (), SIZE)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "segmentation/config.json"])
def test_a_file_that_was_changed_is_refused(tmp_path, name):
    folder = make_version(tmp_path / "toy", with_mask=True)
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    with pytest.raises(DetectorUnusable, match=f"{name} was changed"):
        judge.load(folder)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DetectorUnusable, match="holds no usable detector"):
        judge.load(tmp_path)


def test_the_number_of_tags_must_be_that_of_the_pictures(folder):
    with pytest.raises(ValueError, match="each of the 1 pictures"):
        FixedJudge(folder, SURE).judge(IMAGE, present=[], absent=[()])
