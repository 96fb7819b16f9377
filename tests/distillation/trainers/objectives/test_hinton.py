"""Soft and hard targets are averaged, and a high temperature is the regression."""

import pytest
import torch

from distillation.losses.noise_regression import noise_regression
from distillation.trainers.objectives.hinton import HintonRecipe, softened_regression
from distillation.trainers.student import make

from . import toys


def outputs():
    torch.manual_seed(0)
    target = torch.randn(5, 4, 3, 3)
    return target + 0.3 * torch.randn_like(target) + 0.2, target


def test_a_high_temperature_is_the_regression():
    prediction, target = outputs()
    expected = noise_regression(prediction, target)
    found = softened_regression(prediction.double(), target.double(), temperature=300.0)
    assert found.item() == pytest.approx(expected.item(), rel=1e-2)


def test_a_low_temperature_weighs_large_outputs_more():
    _, target = outputs()
    target = target.flatten(1).double()
    rows = torch.arange(len(target))
    losses = {}
    for name, place in (("large", target.argmax(1)), ("small", target.argmin(1))):
        wrong = target.clone()
        wrong[rows, place] += 0.5
        losses[name] = [
            softened_regression(wrong, target, temperature=value).item() for value in (0.5, 300.0)
        ]
    assert losses["large"][1] == pytest.approx(losses["small"][1], rel=0.02)
    assert losses["large"][0] > 3 * losses["small"][0]


def test_a_shift_that_the_softmax_ignores_is_regressed():
    _, target = outputs()
    found = softened_regression(target + 0.5, target, temperature=1.0)
    assert found.item() == pytest.approx(0.25, rel=1e-3)
    assert softened_regression(target, target, temperature=1.0).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", toys.TYPES)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_loss_is_the_weighted_average(tmp_path, kind, temperature):
    teacher = toys.teacher(kind)
    student = make(teacher, toys.TINY)
    batch = toys.batches(teacher).draw(toys.generator())
    recipe = HintonRecipe(soft_weight=0.8, temperature=temperature)
    found = recipe.make(toys.sources(teacher, tmp_path), student).losses(batch, toys.generator())
    prediction = teacher.passed(student, *batch.inputs)
    target = teacher.predict(*batch.inputs)
    soft = softened_regression(prediction, target, temperature=temperature)
    hard = noise_regression(prediction[: len(batch.hard)], batch.hard)
    assert found["soft"].item() == pytest.approx(0.8 * soft.item(), rel=1e-4)
    assert found["hard"].item() == pytest.approx(0.2 * hard.item(), rel=1e-4)


def test_the_default_recipe_is_not_the_regression(tmp_path):
    """Its gradient goes elsewhere than that of the squared error: else the method would be another name of it."""
    prediction, target = outputs()
    prediction.requires_grad_(True)
    soft = softened_regression(prediction, target, temperature=HintonRecipe().temperature)
    plain = noise_regression(prediction, target)
    ours, others = (torch.autograd.grad(loss, prediction)[0].flatten() for loss in (soft, plain))
    assert torch.cosine_similarity(ours, others, dim=0) < 0.95


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"method": "guidance"}, "method"),
        ({"soft_weight": 1.2}, "soft_weight"),
        ({"temperature": 0.0}, "temperature"),
        ({"soft_weight": 0.0}, "soft_weight"),
    ],
)
def test_fields_that_contradict_are_refused(fields, named):
    with pytest.raises(ValueError, match=named):
        HintonRecipe(**fields)
