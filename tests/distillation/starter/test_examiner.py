"""Training of the examiner: its photographs, and its losses of words and of parts."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distillation.starter import examiner, rendering
from distillation.starter.examiner import ExaminerRecipe, ExaminerTask, attribute_loss
from distillation.starter.photographs import Photographs
from distillation.starter.shapes import INCOMPLETE, PARTS
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
    """Return images of a single colour: red encodes the word of the colour, blue whether the object is incomplete."""
    shots = examiner.shots(recipe.photographs)
    images = torch.zeros(len(shots), 3, 32, 32, dtype=torch.uint8)
    for image, shot in zip(images, shots, strict=True):
        image[0] = 30 * COLOURS.index(shot.combination.colour)
        image[2] = 200 * shot.is_incomplete
    masks = torch.ones(len(shots), 32, 32, dtype=torch.uint8)
    combinations = tuple(shot.combination for shot in shots)
    return Photographs(images, masks, combinations, tuple(shot.seed for shot in shots))


def test_a_third_of_the_objects_with_parts_are_incomplete_and_no_seed_is_in_another_split() -> None:
    shots = examiner.shots(900)
    incomplete = sum(shot.is_incomplete for shot in shots)
    with_parts = sum(shot.combination.object in INCOMPLETE for shot in shots)
    assert incomplete / with_parts == pytest.approx(1 / 3, abs=0.05)
    others = {
        shot.seed
        for name, size in rendering.Recipe().sizes().items()
        for shot in rendering.shots(name, size)
    }
    assert not others & {shot.seed for shot in shots}


def test_training_learns_words_and_returns_the_shapes_of_words_and_parts(tmp_path: Path) -> None:
    photographs = album()
    network = examiner.train(TOY, photographs=photographs, folder=tmp_path, progress_bar=False)
    prediction = examiner.predict(network, photographs.images)
    colour = list(ATTRIBUTES).index("colour")
    target = torch.tensor([COLOURS.index(one.colour) for one in photographs.combinations])
    assert (prediction.words[:, colour] == target).float().mean() > 0.4  # chance: 1 in 8
    assert prediction.words.shape == (24, 4) and prediction.parts.shape == (24, len(PARTS))


def test_incomplete_objects_are_excluded_from_the_loss_of_the_object() -> None:
    logits = torch.zeros(2, len(BITS))
    logits[1, 1] = 9.0  # the second image: a confident wrong object
    bits = torch.zeros(2, len(BITS))
    start = 0
    for words in ATTRIBUTES.values():
        bits[:, start] = 1
        start += len(words)
    named = attribute_loss(logits, bits, torch.tensor([True, True]))
    unnamed = attribute_loss(logits, bits, torch.tensor([True, False]))
    assert named > unnamed + 0.5


def test_the_targets_of_parts_are_those_of_each_shot() -> None:
    shots = examiner.shots(60)
    task = ExaminerTask(
        replace(TOY, photographs=60), photographs=album(replace(TOY, photographs=60)), shots=shots
    )
    mugs = [row for row, shot in enumerate(shots) if shot.combination.object == "mug"]
    handle = list(PARTS).index("handle")
    assert [bool(task._parts[row, handle]) for row in mugs] == [
        not shots[row].is_incomplete for row in mugs
    ]
    assert task._parts[mugs, list(PARTS).index("opening")].all()
