"""The student learns the guided prediction in one pass, and the features of the teacher's stages."""

import copy
from dataclasses import replace

import pytest
import torch

from distillation.losses.features import normalised_matching
from distillation.trainers.objectives.guidance import GuidanceRecipe
from distillation.trainers.perception import tapped
from distillation.trainers.student import StudentRecipe, make
from distillation.training.errors import RecipeRefused

from . import toys

BASE = StudentRecipe(cut="base")


def losses(recipe, teacher, student_recipe, folder, *, student=None, seed=0):
    student = student or make(teacher, student_recipe)
    objective = recipe.make(toys.sources(teacher, folder, student=student_recipe), student)
    batch = toys.batches(teacher).draw(toys.generator(seed))
    return objective.losses(batch, toys.generator()), batch, student, objective


@pytest.mark.parametrize("kind", toys.ALIKE)
def test_a_copy_of_the_teacher_lacks_the_guidance_alone(tmp_path, kind):
    teacher = toys.teacher(kind)
    found, batch, _, _ = losses(GuidanceRecipe(), teacher, toys.UNCUT, tmp_path)
    gap = teacher.predict(*batch.inputs) - teacher.predict(*batch.inputs, guidance_scale=1)
    assert found["guided"].item() == pytest.approx(float(gap.square().mean()), rel=1e-3)
    assert found["guided"] > 0
    found, _, _, _ = losses(GuidanceRecipe(guidance_scale=1.0), teacher, toys.UNCUT, tmp_path)
    assert found["guided"] < 1e-9
    assert list(found) == ["guided"]  # it has no cut, so no pairs of features


@pytest.mark.parametrize("kind", toys.TYPES)
def test_the_hard_target_is_of_the_noised_samples(tmp_path, kind):
    teacher = toys.teacher(kind)
    found, batch, student, _ = losses(GuidanceRecipe(hard_weight=0.1), teacher, toys.TINY, tmp_path)
    prediction = teacher.passed(student, *batch.inputs)[: len(batch.hard)]
    expected = 0.1 * (prediction - batch.hard).square().mean()
    assert found["hard"].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("student_recipe", [BASE, toys.TINY], ids=["base", "tiny"])
def test_features_are_compared_with_those_of_the_text_and_reach_the_student_alone(
    tmp_path, student_recipe
):
    teacher = toys.teacher()
    network = copy.deepcopy(teacher.unet).requires_grad_(True)  # so that a gradient would show
    teacher = replace(teacher, unet=network)
    found, batch, student, objective = losses(
        GuidanceRecipe(feature_weight=0.5), teacher, student_recipe, tmp_path
    )
    with tapped(teacher.unet, objective.teacher_layers) as theirs:
        teacher.predict(*batch.inputs, guidance_scale=1)
    with tapped(student, objective.student_layers) as ours:
        teacher.passed(student, *batch.inputs)
    expected = 0.5 * normalised_matching(
        [ours[name] for name in objective.student_layers],
        [theirs[name] for name in objective.teacher_layers],
    )
    assert len(ours) == len(theirs) >= 4
    assert found["features"].item() == pytest.approx(expected.item(), rel=1e-5)
    found["features"].backward()
    assert student.down_blocks[0].resnets[0].conv1.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in teacher.unet.parameters())


def test_a_narrow_student_has_no_features_and_asking_for_them_is_refused(tmp_path):
    teacher = toys.teacher(is_even=True)
    found, _, _, objective = losses(GuidanceRecipe(), teacher, toys.NARROW, tmp_path)
    assert list(found) == ["guided"]
    assert objective.student_layers == ()
    with pytest.raises(RecipeRefused, match="feature_weight"):
        losses(GuidanceRecipe(feature_weight=1.0), teacher, toys.NARROW, tmp_path)


def test_a_teacher_without_the_empty_text_is_not_guided(tmp_path):
    teacher = toys.teacher(guidance_scale=1.0)
    found, _, _, _ = losses(GuidanceRecipe(), teacher, toys.UNCUT, tmp_path)
    assert found["guided"] < 1e-9
    with pytest.raises(RecipeRefused, match="guidance_scale"):
        losses(GuidanceRecipe(guidance_scale=2.0), teacher, toys.UNCUT, tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("method", "mmd"),
        ("guidance_scale", 0.0),
        ("hard_weight", 1.5),
        ("feature_weight", -1.0),
        ("feature_weight", float("inf")),
    ],
)
def test_fields_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        GuidanceRecipe(**{field: value})


def test_the_student_learns_from_the_loss(tmp_path):
    teacher = toys.teacher()
    student = make(teacher, toys.TINY)
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
    values = []
    for _ in range(12):
        found, _, _, _ = losses(GuidanceRecipe(), teacher, toys.TINY, tmp_path, student=student)
        loss = sum(found.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.7 * values[0]
