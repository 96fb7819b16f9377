"""Accuracy of a detector version on planted pictures: counts of judgements against labels."""

import json
from pathlib import Path

import pytest

from distillation.detector import labels
from distillation.detector.labels import Row
from distillation.evaluation import detector_accuracy
from tests.distillation.detector.folders import FixedJudge, make_labelled, make_version

GROUPS = {"colour": ("red", "green", "blue")}
SOUND, BLURRED = 0.9, 0.1


@pytest.fixture
def found(tmp_path: Path):
    """Two good pictures, one of them lost; a wrong colour, caught; two blurred pictures, one of them missed."""
    folder = make_labelled(tmp_path / "labelled", 5)
    none = frozenset()

    def row(number: int, tag: str, defect: str = "", lacks: str = "") -> Row:
        missing = frozenset({lacks}) if lacks else none
        return Row(f"{number}.png", 0, frozenset({tag}), none, missing, defect=defect)

    rows = [
        row(0, "red"),
        row(1, "green"),
        row(2, "blue", "wrong colour", "blue"),
        row(3, "green", "blurred", "sharp"),
        row(4, "red", "blurred", "sharp"),
    ]
    labels.write(folder, rows, GROUPS)
    probabilities = [
        [0.9, 0.1, 0.1, SOUND],
        [0.8, 0.3, 0.1, SOUND],
        [0.9, 0.1, 0.2, SOUND],
        [0.1, 0.8, 0.1, BLURRED],
        [0.8, 0.1, 0.1, SOUND],
    ]
    judge = FixedJudge(make_version(tmp_path / "toy"), probabilities)
    labelled = labels.read(folder)
    return detector_accuracy.run(judge, labelled, progress_bar=False), labelled


def test_caught_and_lost_pictures_are_counted(found):
    made, _ = found
    assert (made.good, made.lost, made.lost_by) == (2, 1, {"green": 1})
    assert (made.bad, made.caught) == (3, 2)
    by_defect = {row.defect: (row.pictures, row.caught, row.at_fault) for row in made.defects}
    assert by_defect == {"wrong colour": (1, 1, {"blue": 1}), "blurred": (2, 1, {"sharp": 1})}


def test_bits_are_counted_where_they_are_known(found):
    made, _ = found
    bits = {row.bit: (row.pictures, row.precision, row.recall) for row in made.bits}
    assert bits["red"] == (
        2,
        0.5,
        1.0,
    )  # without the blurred pictures and the one of an unknown colour
    assert bits["green"] == (2, None, 0.0)
    assert bits["blue"] == (3, None, None)
    assert bits["sharp"] == (4, pytest.approx(2 / 3), 1.0)


def test_tables_a_file_and_a_sheet_are_written(found, tmp_path):
    made, labelled = found
    text = detector_accuracy.text(made)
    assert "bad caught  2 of 3 (66.7 %)" in text and "good lost   1 of 2 (50.0 %)   green 1" in text
    detector_accuracy.write(made, labelled, tmp_path / "out", image_size=32)
    fields = json.loads((tmp_path / "out" / "trial.json").read_text())
    assert fields["bad_caught"] == 2 and fields["bits"]["green"]["precision"] is None
    assert fields["pictures"][4] == {
        "file": "4.png", "defect": "blurred", "is_accepted": True, "failing": [], "score": pytest.approx(0.8, abs=1e-3),
    }  # fmt: skip
    assert (tmp_path / "out" / "trial.webp").stat().st_size > 500
