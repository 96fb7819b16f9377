"""The student learns the members' mean, and less of it where they disagree."""

import pytest
import torch

from distillation.losses.noise_regression import noise_regression
from distillation.trainers import teacher as teachers
from distillation.trainers.objectives.ensemble import EnsembleRecipe
from distillation.trainers.student import make
from distillation.training.errors import RecipeRefused
from tests import tiny

from . import toys


def prepared(folder, *, kind="v_prediction", **fields):
    teacher = toys.teacher(kind)
    student = make(teacher, toys.TINY)
    recipe = EnsembleRecipe(teachers=(str(toys.release(kind, seed=7)),), **fields)
    objective = recipe.make(toys.sources(teacher, folder), student)
    batch = toys.batches(teacher).draw(toys.generator())
    return objective, batch, student, teacher


@pytest.mark.parametrize("kind", toys.TYPES)
def test_one_member_with_all_the_weight_is_the_regression(tmp_path, kind):
    objective, batch, student, teacher = prepared(tmp_path, kind=kind, weights=(1.0, 0.0))
    target = teacher.predict(*batch.inputs)
    expected = noise_regression(teacher.passed(student, *batch.inputs), target)
    found = objective.losses(batch, toys.generator())
    assert found["ensemble"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_disagreement_lowers_the_weight_of_a_sample(tmp_path):
    objective, batch, student, teacher = prepared(tmp_path, weights=(0.25, 0.75), variance=1e-3)
    own, other = objective.members(batch)
    mean = 0.25 * own + 0.75 * other
    spread = 0.25 * (own - mean).square() + 0.75 * (other - mean).square()
    error = (teacher.passed(student, *batch.inputs) - mean).square().flatten(1).mean(1)
    expected = (error * 1e-3 / (1e-3 + spread.flatten(1).mean(1))).mean()
    found = objective.losses(batch, toys.generator())
    assert found["ensemble"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert found["ensemble"] < 0.99 * error.mean()


def test_the_members_are_the_teacher_and_further_releases_at_their_own_scales(tmp_path):
    objective, batch, _, teacher = prepared(tmp_path)
    other = teachers.load(toys.release(seed=7), device="cpu")
    own, found = objective.members(batch)
    assert torch.allclose(own, teacher.predict(*batch.inputs), atol=1e-4)
    assert torch.allclose(found, other.predict(*batch.inputs, guidance_scale=1.5), atol=1e-4)
    assert not torch.allclose(own, found, atol=0.05)


def test_one_teacher_alone_is_refused_with_what_to_give(tmp_path):
    teacher = toys.teacher()
    with pytest.raises(RecipeRefused, match=r"one teacher is no ensemble.*checkpoint.*teachers="):
        EnsembleRecipe().make(toys.sources(teacher, tmp_path), make(teacher, toys.TINY))


def test_a_release_of_another_kind_is_refused(tmp_path):
    def refused(folder):
        recipe = EnsembleRecipe(teachers=(str(folder),))
        teacher = toys.teacher()
        with pytest.raises(RecipeRefused, match="teachers") as caught:
            recipe.make(toys.sources(teacher, tmp_path), make(teacher, toys.TINY))
        return str(caught.value)

    assert "prediction type" in refused(toys.release("epsilon"))
    tiny.make_tiny_release(
        tmp_path / "large", prediction_type="v_prediction", zero_snr=True, image_size=128
    )
    assert "latents" in refused(tmp_path / "large")
    tiny.make_tiny_release(tmp_path / "bright", prediction_type="v_prediction")
    assert "noise schedule" in refused(tmp_path / "bright")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"method": "mmd"}, "method"),
        ({"variance": 0.0}, "variance"),
        ({"weights": (0.5, 0.5)}, "weights"),
        ({"teachers": ("a",), "weights": (0.5, 0.6)}, "weights"),
        ({"teachers": ("a",), "weights": (1.5, -0.5)}, "weights"),
    ],
)
def test_fields_that_contradict_are_refused(fields, named):
    with pytest.raises(ValueError, match=named):
        EnsembleRecipe(**fields)
