"""The search space: every choice gives a recipe that fits the teacher, for any factor of its VAE."""

from dataclasses import replace

import pytest

from distillation.design import space as spaces
from distillation.pipeline.overrides import changed
from distillation.pipeline.recipes import ONE_STEP, RECIPES
from distillation.trainers import decoder, student
from distillation.trainers import teacher as teachers
from distillation.training.errors import RecipeRefused
from generation.engine import importing
from generation.engine.importing import Options
from generation.engine.latents import pixels_per_latent
from tests.tiny import make_sd15_folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("space")
    importing.import_folder(
        make_sd15_folder(folder / "sd15"), folder / "teacher", name="sd15", options=Options(steps=2)
    )
    return teachers.load(folder / "teacher", device="cpu")


def test_the_first_choice_is_the_recipe_itself(teacher):
    space = spaces.of(ONE_STEP, teacher)

    assert space.recipe_of(space.first()) == ONE_STEP
    assert space.fits(space.first())


def test_every_choice_is_a_recipe_and_every_student_can_be_made(teacher):
    space = spaces.of(ONE_STEP, teacher)
    everything = list(space.everything())
    found = [space.recipe_of(params) for params in everything[:: max(1, len(everything) // 100)]]

    assert len(everything) == len({str(sorted(params.items())) for params in everything})
    assert {len(recipe.timesteps) for recipe in found} == {1, 2, 4}
    narrowest = dict(sorted(space.students, reverse=True))
    for cut, width in narrowest.items():
        student.make(teacher, space.recipe_of(space.first() | {"cut": cut, "width": width}).student)


@pytest.mark.parametrize("factor", [8, 16])
def test_every_decoder_gives_the_pixels_of_the_teachers_vae(teacher, factor):
    shuffle = factor // 2
    recipe = changed(ONE_STEP, {"decoder": {"blocks": [4, 1], "shuffle": shuffle}})
    space = replace(spaces.of(ONE_STEP, teacher), recipe=recipe, factor=factor)
    shuffles = (1, 2, 4) if factor == 8 else (2, 4)
    for depth in (1, 4):
        for own in shuffles:
            parts = space.recipe_of(space.first() | {"depth": depth, "shuffle": own, "channels": 8})
            network = decoder.build(parts.decoder, latent_channels=4)
            assert pixels_per_latent(network.config) == factor


def test_changes_are_those_of_a_recipes_file(teacher):
    space = spaces.of(ONE_STEP, teacher)
    params = space.first() | {"timesteps": "999 499", "method": "bayes", "weights": "float16"}
    recipe = changed(ONE_STEP, space.changes(params))

    assert recipe.timesteps == (999, 499) and recipe.weights == "float16"
    assert recipe.regression.pass_weights == (1.0, 1.0) and recipe.regression.simulated == 0.5
    assert recipe.structure.objective.method == "bayes" and recipe.structure.weight_decay == 0


@pytest.mark.parametrize("recipe", [RECIPES["mmd"], replace(ONE_STEP, joint=None)])
def test_a_recipe_whose_students_are_not_trained_jointly_is_refused(teacher, recipe):
    with pytest.raises(RecipeRefused, match="joint"):
        spaces.of(recipe, teacher)
