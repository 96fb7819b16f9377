"""The examiner learns words and parts from photographs of its own."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distillation.starter import examiner, rendering
from distillation.starter.examiner import ExaminerRecipe, ExaminerTask, attribute_loss
from distillation.starter.photographs import Photographs
from distillation.starter.shapes import MAIMED, PARTS
from distillation.starter.words import ATTRIBUTES, BITS, COLOURS

torch.set_num_threads(1)

TOY = ExaminerRecipe(
    photographs=24,
    image_size=32,
    widths=(8, 16),
    depths=(1, 1),
    steps=60,
    batch=16,
    learning_rate=1e-2,
    warmup=5,
    ema_decay=0.8,
    is_bf16=False,
)


def album(recipe: ExaminerRecipe = TOY) -> Photographs:
    """Return flat pictures: their red tells the colour; blue tells whether the object lacks parts."""
    shots = examiner.shots(recipe.photographs)
    images = torch.zeros(len(shots), 3, 32, 32, dtype=torch.uint8)
    for image, shot in zip(images, shots, strict=True):
        image[0] = 30 * COLOURS.index(shot.combination.colour)
        image[2] = 200 * shot.is_maimed
    masks = torch.ones(len(shots), 32, 32, dtype=torch.uint8)
    combinations = tuple(shot.combination for shot in shots)
    return Photographs(images, masks, combinations, tuple(shot.seed for shot in shots))


def test_a_third_of_the_objects_that_have_parts_lack_some_and_the_seeds_are_its_own() -> None:
    shots = examiner.shots(900)
    lacking = [shot for shot in shots if shot.is_maimed]
    assert len(lacking) / sum(shot.combination.object in MAIMED for shot in shots) == pytest.approx(
        1 / 3, abs=0.05
    )
    others = {
        shot.seed
        for name, size in rendering.Recipe().sizes().items()
        for shot in rendering.shots(name, size)
    }
    assert not others & {shot.seed for shot in shots}


def test_it_learns_words_and_which_parts_are_there(tmp_path: Path) -> None:
    taken = album()
    network = examiner.train(TOY, photographs=taken, folder=tmp_path, progress_bar=False)
    verdict = examiner.judge(network, taken.images)
    colour = list(ATTRIBUTES).index("colour")
    wanted = torch.tensor([COLOURS.index(one.colour) for one in taken.combinations])
    assert (verdict.words[:, colour] == wanted).float().mean() > 0.4  # by chance 1 in 8
    assert verdict.words.shape == (24, 4) and verdict.parts.shape == (24, len(PARTS))


def test_an_object_that_lacks_parts_does_not_teach_what_its_name_means() -> None:
    logits = torch.zeros(2, len(BITS))
    logits[1, 1] = 9.0  # of the second picture: sure of another object
    bits = torch.zeros(2, len(BITS))
    start = 0
    for words in ATTRIBUTES.values():
        bits[:, start] = 1
        start += len(words)
    named = attribute_loss(logits, bits, torch.tensor([True, True]))
    unnamed = attribute_loss(logits, bits, torch.tensor([True, False]))
    assert named > unnamed + 0.5


def test_the_task_knows_the_parts_of_each_shot() -> None:
    shots = examiner.shots(60)
    task = ExaminerTask(
        replace(TOY, photographs=60), photographs=album(replace(TOY, photographs=60)), shots=shots
    )
    mugs = [row for row, shot in enumerate(shots) if shot.combination.object == "mug"]
    handle = list(PARTS).index("handle")
    assert [bool(task._parts[row, handle]) for row in mugs] == [
        not shots[row].is_maimed for row in mugs
    ]
    assert task._parts[mugs, list(PARTS).index("opening")].all()
