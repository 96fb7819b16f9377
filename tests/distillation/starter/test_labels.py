"""Labelled folders of photographs, with planted defects."""

import numpy as np
import pytest
import torch

from distillation.detector import labels as labelled
from distillation.starter import labels
from distillation.starter.photographs import Photographs
from distillation.starter.words import COMBINATIONS

SIZE = 64


@pytest.fixture
def photographs() -> Photographs:
    """Return bright rectangles on a dark ground; the masks also mark a corner as object, as some rendered masks do."""
    images = torch.full((8, 3, SIZE, SIZE), 60, dtype=torch.uint8)
    masks = torch.zeros(8, SIZE, SIZE, dtype=torch.uint8)
    images[:, :, 20:44, 22:40], masks[:, 20:44, 22:40] = 220, 1
    masks[:, :3, :3] = 1
    return Photographs(images, masks, COMBINATIONS[:8], tuple(range(8)))


def test_a_training_folder_has_the_labels_of_its_photographs(photographs, tmp_path):
    other = Photographs(
        photographs.images, photographs.masks, photographs.combinations, tuple(range(8, 16))
    )
    assert labels.write(tmp_path, {"train": photographs, "held-out": other}) == 16
    found = labelled.read(tmp_path)
    first = found.rows[0]
    assert {"vase", "red"} <= first.present and first.part == "train"
    assert found.masks(SIZE)[0].sum() == 24 * 18  # without the corner
    assert found.images(SIZE)[0].equal(photographs.images[0])
    assert found.vocabulary.sizes == (8, 8, 4, 3)


def test_defective_pictures_have_the_defect_of_their_label(photographs, tmp_path):
    assert labels.plant(tmp_path, photographs, each=3) == 8 + 3 * len(labels.DEFECTS)
    found = labelled.read(tmp_path)
    images = found.images(SIZE)
    by_defect = {row.defect: number for number, row in enumerate(found.rows)}
    assert set(by_defect) == {"", *labels.DEFECTS}
    for row in found.rows:
        assert bool(row.defect) == bool(row.lacks)
        if row.defect == "wrong colour":
            assert row.lacks < row.present
    spread = {name: float(images[number].float().std()) for name, number in by_defect.items()}
    assert spread["blank"] < 3 < spread[""]
    bright = {
        name: float((images[number] > 150).float().mean()) for name, number in by_defect.items()
    }
    assert bright["too small"] < 0.3 * bright[""]


def test_a_cut_off_object_touches_the_edge(photographs):
    random = np.random.default_rng(0)
    mask = labels.object_of(photographs.masks[0])
    cut = labels._cut_off(photographs.images[0].permute(1, 2, 0).numpy(), mask, random)
    edge = np.concatenate([cut[0], cut[-1], cut[:, 0], cut[:, -1]])
    assert cut.shape == (SIZE, SIZE, 3) and (edge > 150).any()


def test_the_same_photographs_give_the_same_folder(photographs, tmp_path):
    for name in ("one", "two"):
        labels.plant(tmp_path / name, photographs, each=2)
    one, two = labelled.read(tmp_path / "one"), labelled.read(tmp_path / "two")
    assert one.rows == two.rows and one.images(SIZE).equal(two.images(SIZE))
