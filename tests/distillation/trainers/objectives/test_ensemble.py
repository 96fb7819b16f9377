"""The student learns the members' mean, and less of it where they disagree."""

import pytest
import torch

from distillation.losses.noise_regression import noise_regression
from distillation.trainers import teacher as teachers
from distillation.trainers.objectives import passes
from distillation.trainers.objectives.ensemble import EnsembleRecipe
from distillation.trainers.student import make
from distillation.training.errors import RecipeRefused
from tests import tiny

from . import toys


def prepared(recipe, folder, *, kind="v_prediction"):
    teacher = toys.teacher(kind)
    student = make(teacher, toys.TINY)
    objective = recipe.make(toys.sources(teacher, folder), student)
    batch = toys.batches(teacher).draw(toys.generator())
    return objective, batch, student, teacher


@pytest.mark.parametrize("kind", toys.TYPES)
def test_one_member_with_all_the_weight_is_the_regression(tmp_path, kind):
    recipe = EnsembleRecipe(guidance_scales=(1.0, 2.0, 4.0), weights=(0.0, 1.0, 0.0))
    objective, batch, student, teacher = prepared(recipe, tmp_path, kind=kind)
    target = teacher.predict(
        batch.latents, batch.timesteps, batch.prompt_embeds, guidance_scale=2.0
    )
    expected = noise_regression(passes.of_student(student, teacher, batch), target)
    found = objective.losses(batch, toys.generator())
    assert found["ensemble"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_disagreement_lowers_the_weight_of_a_sample(tmp_path):
    recipe = EnsembleRecipe(guidance_scales=(1.0, 3.0), weights=(0.25, 0.75), variance=1e-3)
    objective, batch, student, teacher = prepared(recipe, tmp_path)
    low, high = objective.members(batch)
    mean = 0.25 * low + 0.75 * high
    spread = 0.25 * (low - mean).square() + 0.75 * (high - mean).square()
    error = (passes.of_student(student, teacher, batch) - mean).square().flatten(1).mean(1)
    expected = (error * 1e-3 / (1e-3 + spread.flatten(1).mean(1))).mean()
    found = objective.losses(batch, toys.generator())
    assert found["ensemble"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert found["ensemble"] < 0.99 * error.mean()


def test_without_scales_they_lie_around_the_teachers_own(tmp_path):
    objective, batch, _, teacher = prepared(EnsembleRecipe(), tmp_path)
    inputs = batch.latents, batch.timesteps, batch.prompt_embeds
    for member, scale in zip(objective.members(batch), (1.375, 1.5, 1.625), strict=True):
        expected = teacher.predict(*inputs, guidance_scale=scale)
        assert torch.allclose(member, expected, atol=1e-4)


def test_further_releases_are_members_at_their_own_scale(tmp_path):
    folder = toys.release(seed=7)
    other = teachers.load(folder, device="cpu")
    recipe = EnsembleRecipe(guidance_scales=(2.0,), teachers=(str(folder),))
    teacher = toys.teacher()
    batches = toys.batches(teacher)
    objective = recipe.make(toys.sources(teacher, tmp_path), make(teacher, toys.TINY))
    batch = batches.draw(toys.generator())
    # The toy catalogue's embeddings are shorter than the release's empty text, as attention allows.
    _, found = objective.members(batch)
    expected = other.predict(batch.latents, batch.timesteps, batch.prompt_embeds, guidance_scale=1)
    empty = other.predict(
        batch.latents, batch.timesteps, other.negative.expand(6, -1, -1), guidance_scale=1
    )
    assert torch.allclose(found, empty + 1.5 * (expected - empty), atol=1e-4)


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


def test_an_unguided_teacher_has_nothing_to_vary(tmp_path):
    teacher = toys.teacher(guidance_scale=1.0)
    with pytest.raises(RecipeRefused, match="guidance_scales"):
        EnsembleRecipe().make(toys.sources(teacher, tmp_path), make(teacher, toys.TINY))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"method": "mmd"}, "method"),
        ({"variance": 0.0}, "variance"),
        ({"guidance_scales": (1.5,)}, "guidance_scales"),
        ({"guidance_scales": (1.5, -1.0)}, "guidance_scales"),
        ({"weights": (0.5, 0.5)}, "weights"),
        ({"weights": (0.5, 0.5, 0.5)}, "weights"),
        ({"guidance_scales": (1.0, 2.0), "weights": (1.5, -0.5)}, "weights"),
    ],
)
def test_fields_that_contradict_are_refused(fields, named):
    with pytest.raises(ValueError, match=named):
        EnsembleRecipe(**fields)
