"""The student's prior is the teacher's posterior of the weights that it keeps."""

import pytest
import torch

from distillation.losses.bayes import DiagonalGaussian
from distillation.trainers.objectives.bayes import BayesRecipe
from distillation.trainers.student import StudentRecipe, make, reduce

from . import toys

BOTH = StudentRecipe(cut="base", width="1/2")
SHORT = {"fisher_batches": 2, "fisher_batch": 2}


def prepared(recipe, folder, *, student_recipe=toys.TINY, kind="v_prediction"):
    teacher = toys.teacher(kind, is_even=student_recipe.share < 1)
    sources = toys.sources(teacher, folder, student=student_recipe)
    known = recipe.estimate(sources)
    student = make(teacher, student_recipe, posterior=known.posterior)
    objective = recipe.make(sources, student)
    return objective, toys.batches(teacher).draw(toys.generator()), student, known


@pytest.mark.parametrize(
    ("student_recipe", "kind"),
    [
        *((toys.TINY, kind) for kind in toys.TYPES),
        pytest.param(toys.NARROW, toys.TYPES[0], marks=pytest.mark.slow),  # as part of both
        (BOTH, toys.TYPES[0]),
    ],
    ids=["tiny-v_prediction", "tiny-epsilon", "1/2", "both"],
)
def test_the_prior_is_centred_where_the_student_starts(tmp_path, student_recipe, kind):
    objective, batch, student, known = prepared(
        BayesRecipe(**SHORT), tmp_path, student_recipe=student_recipe, kind=kind
    )
    for mean, parameter in zip(objective.prior.means, student.parameters(), strict=True):
        assert torch.allclose(mean, parameter.detach(), atol=1e-6)
    spreads = torch.cat([variance.flatten() for variance in objective.prior.variances])
    assert spreads.max() > 2 * spreads.min()  # not all weights are equally well known
    found = objective.losses(batch, toys.generator())
    assert found["prior"].item() == pytest.approx(0, abs=1e-6)
    assert known.variance > 0


def test_moving_a_weight_costs_by_its_variance_in_units_of_the_other_term(tmp_path):
    recipe = BayesRecipe(beta=0.5, examples=100, **SHORT)
    objective, batch, student, known = prepared(recipe, tmp_path)
    number, parameter = 3, list(student.parameters())[3]
    with torch.no_grad():
        parameter += 0.02
    nats = 0.5 / (2 * 100) * (0.02**2 / objective.prior.variances[number]).sum()
    expected = 2 * known.variance / (4 * 8 * 8) * nats
    found = objective.losses(batch, toys.generator())
    assert found["prior"].item() == pytest.approx(expected.item(), rel=1e-3)


def test_channels_that_are_known_to_matter_stay(tmp_path):
    teacher = toys.teacher(is_even=True)
    known = BayesRecipe(**SHORT).estimate(toys.sources(teacher, tmp_path)).posterior
    name = "down_blocks.0.resnets.0.conv2.weight"  # what leads out of the hidden channels
    doubted = {**known.variance, name: known.variance[name].clone()}
    doubted[name][:, :8] = 1e4  # of the first eight nothing is known
    doubted[name][:, 8:] = 1e-8
    posterior = type(known)(known.mean, doubted)
    prior = reduce(teacher, toys.NARROW, posterior=posterior).prior
    student = make(teacher, toys.NARROW, posterior=posterior)
    assert (prior.variance[name] == 1e-8).all()
    for key, value in student.state_dict().items():
        assert torch.allclose(prior.mean[key], value, atol=1e-6)


def test_drawn_weights_without_variance_are_the_means(tmp_path):
    recipe = BayesRecipe(form="kl", initial_variance=1e-16, **SHORT)
    objective, batch, student, _ = prepared(recipe, tmp_path)
    teacher = toys.teacher()
    target = teacher.predict(*batch.inputs)
    prediction = teacher.passed(student, *batch.inputs)
    found = objective.losses(batch, toys.generator())
    expected = (prediction - target).square().mean()
    assert found["guided"].item() == pytest.approx(expected.item(), rel=1e-3)
    loud = BayesRecipe(form="kl", initial_variance=1e-2, **SHORT)
    other, batch, _, _ = prepared(loud, tmp_path)
    draws = [other.losses(batch, toys.generator(seed))["guided"].item() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_the_divergence_is_least_at_the_prior(tmp_path):
    recipe = BayesRecipe(form="kl", beta=1.0, initial_variance=1.0, **SHORT)
    objective, batch, student, _ = prepared(recipe, tmp_path)
    # With so large an initial variance q starts as the prior itself.
    assert objective.losses(batch, toys.generator())["prior"].item() == pytest.approx(0, abs=1e-4)
    toys.moved(student)
    found = objective.losses(batch, toys.generator())
    assert found["prior"] > 1e-2
    sum(found.values()).backward()
    logarithms = objective.modules["log_variances"]
    assert all(value.grad.abs().sum() > 0 for value in logarithms.values)
    assert student.conv_in.weight.grad.abs().sum() > 0
    assert isinstance(objective.prior, DiagonalGaussian)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"method": "hinton"}, "method"),
        ({"form": "full"}, "form"),
        ({"beta": -1.0}, "beta"),
        ({"examples": 0}, "examples"),
        ({"fisher_batches": 0}, "fisher_batches"),
        ({"fisher_batch": 0}, "fisher_batch"),
        ({"precision": -1.0}, "precision"),
        ({"initial_variance": 1e-6}, "initial_variance"),
        ({"form": "kl", "initial_variance": 0.0}, "initial_variance"),
    ],
)
def test_fields_that_contradict_are_refused(fields, named):
    with pytest.raises(ValueError, match=named):
        BayesRecipe(**fields)
