"""Training of a detector version from a labelled folder."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distillation.detector import labels, network, version
from distillation.detector.errors import LabelsUnusable
from distillation.detector_training import version as judge
from distillation.detector_training.version import JudgeRecipe
from tests.distillation.detector.folders import GROUPS, MASKS, SIZE, make_labelled, make_version
from tests.distillation.detector_training import test_quality, test_segmentation

RECIPE = JudgeRecipe(
    image_size=SIZE,
    false_accepts=0.05,
    classifier=replace(test_quality.RECIPE, steps=10, spoilt=0.0, worn=0.0),
    quality=replace(test_quality.RECIPE, steps=10, worn=0.0),
    segmentation=replace(test_segmentation.RECIPE, steps=10),
    masks=MASKS,
    widths=(8, 16),
    depths=(0, 1),
    quality_widths=(4, 8),
    quality_depths=(0, 1),
)


def make(folder: Path, labelled: Path, *, begins_with: Path | None = None, recipe=RECIPE):
    return judge.make(
        recipe,
        labels.read(labelled),
        name="toy",
        folder=folder,
        begins_with=begins_with,
        progress_bar=False,
    )


def test_the_version_has_the_bits_of_the_labels_of_quality_and_of_masks(tmp_path):
    labelled = make_labelled(tmp_path / "labelled", 60)
    made = make(tmp_path / "training", labelled)
    learnt = ("sharp", "clean", "whole", "large")
    assert made.bits == ("red", "green", "low", "high", *learnt)
    assert made.groups == (2, 2, 1, 1, 1, 1) and made.required == learnt
    found = version.read(tmp_path / "training" / "version").figures
    assert found["test"]["is_held_out"] and found["test"]["good"] == found["pictures"]["held_out"]
    # the folder can be loaded as a plain classifier too
    assert network.load(tmp_path / "training" / "version").config.bits == made.bits[:-4]


def test_an_existing_version_is_not_trained_again(tmp_path):
    labelled = make_labelled(tmp_path / "labelled", 60)
    make(tmp_path / "training", labelled)
    file = tmp_path / "training" / "version" / "detector.json"
    before = file.stat().st_mtime_ns
    make(tmp_path / "training", labelled)
    assert file.stat().st_mtime_ns == before


def test_a_folder_without_masks_gives_no_bits_of_masks_and_training_begins_with_another_version(
    tmp_path,
):
    labelled = make_labelled(tmp_path / "labelled", 60)
    rows = labels.read(labelled).rows
    labels.write(
        labelled,
        [replace(row, mask="") for row in rows],
        {"colour": ("red", "green"), "place": ("low", "high")},
    )
    beginning = make_version(tmp_path / "other")
    made = make(
        tmp_path / "training",
        labelled,
        begins_with=beginning,
        recipe=replace(RECIPE, widths=None, depths=None),
    )
    assert made.bits[-2:] == ("sharp", "clean") and made.unet is None
    assert made.classifier.config.widths == (4, 8)  # those of the version that it begins with


def test_a_classifier_can_be_kept_as_it_is(tmp_path):
    labelled = labels.read(make_labelled(tmp_path / "labelled", 60))
    bits = ("red", "green", "low", "high")
    kept = make_version(tmp_path / "kept", bits=bits, groups=(2, 2), required=())
    made = judge.make(
        RECIPE, labelled, name="toy", folder=tmp_path / "new", keeps=kept, progress_bar=False
    )
    before, after = network.load(kept).state_dict(), made.classifier.state_dict()
    # in half precision
    assert all(torch.allclose(value, after[name], atol=1e-3) for name, value in before.items())
    with pytest.raises(LabelsUnusable, match="other bits"):
        unlike = make_version(tmp_path / "unlike")
        judge.make(
            RECIPE, labelled, name="toy", folder=tmp_path / "no", keeps=unlike, progress_bar=False
        )


def test_the_quality_network_sees_the_whole_pictures_and_a_kept_classifier_smaller_copies(tmp_path):
    labelled = labels.read(make_labelled(tmp_path / "labelled", 60))
    kept = make_version(
        tmp_path / "kept", bits=("red", "green", "low", "high"), groups=(2, 2), required=()
    )
    recipe = replace(RECIPE, image_size=2 * SIZE)
    made = judge.make(
        recipe, labelled, name="toy", folder=tmp_path / "new", keeps=kept, progress_bar=False
    )
    networks = (made.classifier, made.quality, made.unet)
    assert [part.config.image_size for part in networks] == [SIZE, 2 * SIZE, SIZE]
    assert made.image_size == 2 * SIZE
    pictures = torch.randint(256, (2, 3, 2 * SIZE, 2 * SIZE), dtype=torch.uint8)
    assert made.probabilities(pictures).shape == (2, len(made.bits))
    with pytest.raises(LabelsUnusable, match="for larger pictures than 16 pixels"):
        judge.make(
            replace(RECIPE, image_size=16),
            labelled,
            name="toy",
            folder=tmp_path / "no",
            keeps=kept,
            progress_bar=False,
        )


def test_too_few_pictures_are_refused_with_their_folder(tmp_path):
    labelled = make_labelled(tmp_path / "labelled", 2)
    with pytest.raises(LabelsUnusable, match="labelled"):
        make(tmp_path / "training", labelled)


def test_pictures_that_name_no_bit_do_not_end_the_training(tmp_path):
    """Most batches have no known bit, and the mean of no errors is not a number."""
    labelled = make_labelled(tmp_path / "labelled", 60)
    rows = [
        replace(
            row,
            mask="",
            part="held-out" if number < 12 else "train",
            present=row.present if number < 16 else frozenset(),
        )
        for number, row in enumerate(labels.read(labelled).rows)
    ]
    labels.write(labelled, rows, GROUPS)
    made = make(
        tmp_path / "training",
        labelled,
        recipe=replace(RECIPE, classifier=replace(RECIPE.classifier, batch=4)),
    )
    assert made.bits == ("red", "green", "low", "high", "sharp", "clean")


def test_an_invalid_margin_is_refused_by_the_recipe():
    with pytest.raises(ValueError, match="margin"):
        JudgeRecipe(margin=1.0)
