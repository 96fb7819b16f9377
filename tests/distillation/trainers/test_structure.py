"""A cut student is trained by any method, continues where it was interrupted, and learns."""

import json
from dataclasses import replace

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from distillation.resumable import progress
from distillation.resumable.progress import SliceOver
from distillation.trainers import structure
from distillation.trainers.objectives.bayes import BayesRecipe
from distillation.trainers.objectives.ensemble import EnsembleRecipe
from distillation.trainers.objectives.guidance import GuidanceRecipe, ScratchRecipe
from distillation.trainers.objectives.hinton import HintonRecipe
from distillation.trainers.objectives.methods import METHODS
from distillation.trainers.objectives.mmd import MmdRecipe
from distillation.trainers.structure import StructureRecipe
from distillation.trainers.student import StudentRecipe
from distillation.training import networks

from .objectives import toys

BAYES = BayesRecipe(form="kl", fisher_batches=1, fisher_batch=2)
OBJECTIVES = (
    GuidanceRecipe(hard_weight=0.1),
    HintonRecipe(temperature=3.0),
    EnsembleRecipe(),
    MmdRecipe(samples=2),
    BAYES,
    ScratchRecipe(),
)


def recipe(objective=None, **fields) -> StructureRecipe:
    objective = objective or GuidanceRecipe()
    if isinstance(objective, EnsembleRecipe):
        objective = replace(objective, teachers=(str(toys.release(seed=7)),))
    decay = 0.0 if isinstance(objective, BayesRecipe) else 0.01
    values = {"steps": 3, "batch": 4, "warmup": 1, "learning_rate": 2e-3, "weight_decay": decay}
    return StructureRecipe(objective=objective, **{**values, **fields})


def train(given, folder, *, student=toys.TINY, kind="v_prediction") -> UNet2DConditionModel:
    teacher = toys.teacher(kind, is_even=student.share < 1)
    return structure.train(given, toys.inputs(teacher, folder), student_recipe=student)


def test_every_method_is_among_the_tested_objectives():
    assert {objective.method for objective in OBJECTIVES} == set(METHODS)


@pytest.mark.parametrize(
    ("objective", "kind"),
    [*((objective, "v_prediction") for objective in OBJECTIVES), (GuidanceRecipe(), "epsilon")],
    ids=lambda value: value if isinstance(value, str) else value.method,
)
@pytest.mark.slow
def test_the_averaged_student_is_returned_and_saved(tmp_path, objective, kind):
    student = train(recipe(objective), tmp_path, kind=kind)
    assert not student.training
    assert not any(parameter.requires_grad for parameter in student.parameters())
    saved = networks.load(UNet2DConditionModel, tmp_path / "unet").state_dict()
    started = structure.make(toys.teacher(kind), toys.TINY).state_dict()
    for name, value in student.state_dict().items():
        assert torch.equal(value, saved[name])
    assert not torch.equal(saved["conv_out.weight"], started["conv_out.weight"])
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["watched_error"] > 0
    parts = set(last) - {"step", "seconds", "loss", "gradient_norm", "watched_error"}
    assert last["loss"] == pytest.approx(sum(last[name] for name in parts), rel=1e-4)


def test_weights_from_scratch_depend_on_the_seed_and_not_on_the_teacher():
    teacher = toys.teacher()
    own = teacher.unet.state_dict()
    first, again, other = (
        structure.make(teacher, toys.TINY, random_seed=seed).state_dict() for seed in (0, 0, 1)
    )
    name = "conv_in.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name]) and not torch.equal(first[name], own[name])


@pytest.mark.slow
def test_a_narrow_student_is_trained(tmp_path):
    student = train(recipe(replace(BAYES, form="point")), tmp_path, student=toys.NARROW)
    assert tuple(student.config.block_out_channels) == (8, 8, 8)


def test_the_posterior_decides_which_block_a_student_loses(tmp_path):
    given = recipe(replace(BAYES, form="point"))
    base = structure.make(toys.teacher(), StudentRecipe(cut="base"))
    student = train(given, tmp_path, student=StudentRecipe(cut="base-least"))

    def attentions(network):
        return {name for name, _ in network.named_modules() if name.endswith("attentions")}

    left = attentions(base) - attentions(student)
    gone = {name.rpartition(".")[0] for name in left}
    one_level = ({"down_blocks.1", "up_blocks.1"}, {"down_blocks.2", "up_blocks.0"})
    assert gone in ({"mid_block"}, *one_level)
    saved = networks.load(UNet2DConditionModel, tmp_path / "unet")
    assert attentions(saved) == attentions(student)


# One draws in each step, one trains variances as well.
@pytest.mark.parametrize(
    "objective",
    [MmdRecipe(samples=2), pytest.param(BAYES, marks=pytest.mark.slow)],
    ids=lambda objective: objective.method,
)
def test_an_interrupted_training_ends_with_the_same_weights(tmp_path, objective):
    given = recipe(objective, steps=2, warmup=0)
    whole = train(given, tmp_path / "whole")
    stop = progress.watched(lambda title, done, total: title == "structure" and done == 1)
    with stop, pytest.raises(SliceOver):
        train(given, tmp_path / "parts")
    assert not (tmp_path / "parts" / "unet").exists()
    resumed = train(given, tmp_path / "parts")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize(
    "kind", [toys.TYPES[0], pytest.param(toys.TYPES[1], marks=pytest.mark.slow)]
)
def test_the_student_comes_nearer_to_the_guided_teacher(tmp_path, kind):
    given = recipe(steps=20, batch=8, warmup=2, learning_rate=4e-3, ema_decay=0.6)
    teacher = toys.teacher(kind)
    batch = toys.batches(teacher, size=16).draw(toys.generator(99))
    inputs = batch.latents, batch.timesteps, batch.prompt_embeds
    target = teacher.predict(*inputs)

    def error(student):
        with torch.no_grad():
            output = student(inputs[0], inputs[1], encoder_hidden_states=inputs[2]).sample
        return float((output - target).square().mean())

    before = error(structure.make(teacher, toys.TINY))
    assert error(train(given, tmp_path, kind=kind)) < 0.6 * before


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"steps": 0}, "steps"),
        ({"batch": 0}, "batch"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"clipped_norm": 0.0}, "clipped_norm"),
        ({"warmup": -1}, "warmup"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"path_share": 0.95, "first_timestep_share": 0.1}, "path_share"),
        ({"weight_floor": 0.0}, "weight_floor"),
        ({"objective": BAYES, "weight_decay": 0.01}, "weight_decay"),
    ],
)
def test_fields_that_contradict_are_refused(fields, named):
    with pytest.raises(ValueError, match=named):
        StructureRecipe(**fields)


def test_an_objective_of_no_method_is_refused():
    with pytest.raises(ValueError, match="objective"):
        StructureRecipe(objective={"method": "guidance"})  # type: ignore[arg-type]
