"""The table of recipes, and refusal of recipes that contradict themselves or the teacher, with the field."""

from dataclasses import replace

import pytest

from distillation.evaluation.noninferiority import Margins
from distillation.pipeline import recipes
from distillation.pipeline.overrides import changed
from distillation.pipeline.recipes import ONE_STEP, RECIPES, TWO_STEP
from distillation.trainers import teacher as teachers
from distillation.training.errors import RecipeRefused
from tests.tiny import make_tiny_release


def test_every_recipe_is_found_by_its_name():
    assert {
        "starter-1step",
        "starter-2step",
        "sd15-tiny-1step",
        "hinton",
        "ensemble",
        "mmd",
        "bayes",
        "rehearsal",
    } == set(RECIPES)
    assert all(recipes.named(name).name == name for name in RECIPES)
    with pytest.raises(RecipeRefused, match="starter-1step"):
        recipes.named("starter-3step")


def test_the_methods_differ_in_their_objective_alone():
    rows = [RECIPES[name] for name in ("hinton", "ensemble", "mmd", "bayes")]

    assert len({type(row.structure.objective) for row in rows}) == 4
    same = {
        replace(
            row,
            name="",
            summary="",
            structure=replace(
                row.structure, objective=rows[0].structure.objective, weight_decay=0.01
            ),
        )
        for row in rows
    }
    assert len(same) == 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"timesteps": []}, "timesteps"),
        ({"timesteps": [499, 999]}, "timesteps"),
        ({"timesteps": [999, 499]}, "pass_weights"),
        ({"pairs": None}, "pairs"),
        ({"regression": None, "matching": {}}, "matching"),
        ({"regression": None}, "joint"),
        ({"labels": {"weight": 0.1}, "regression": None, "joint": None}, "labels"),
        ({"structure": {"betas": [0.9, 1.0]}}, "structure.betas"),
        ({"joint": {"seed": 2**63}}, "joint.seed"),
        ({"evaluation": {"fresh_seeds": 512}}, "second_look"),
        ({"evaluation": {"fresh_seeds": 0, "seeds_per_variant": 505}}, "second_look"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(change, named):
    with pytest.raises(RecipeRefused, match=named):
        changed(ONE_STEP, change)


def test_a_later_pass_must_begin_at_a_stored_point_of_the_path():
    with pytest.raises(RecipeRefused, match=r"path_timesteps"):
        changed(TWO_STEP, {"timesteps": [999, 500]})


@pytest.fixture
def teacher(tmp_path):
    make_tiny_release(tmp_path / "teacher", prediction_type="v_prediction", zero_snr=True)
    return teachers.load(tmp_path / "teacher", device="cpu")


def test_a_recipe_for_another_size_is_refused(teacher):
    changed(ONE_STEP, {"image_size": 64}).check(teacher)
    with pytest.raises(RecipeRefused, match=r"image_size.*512.*64"):
        RECIPES["sd15-tiny-1step"].check(teacher)


def test_timesteps_beyond_the_teachers_are_refused(teacher):
    with pytest.raises(RecipeRefused, match=r"timesteps.*1000"):
        changed(ONE_STEP, {"image_size": 64, "timesteps": [1000]}).check(teacher)


def test_a_teacher_that_predicts_noise_cannot_begin_at_pure_noise(teacher):
    schedule = replace(teacher.schedule, prediction_type="epsilon")

    with pytest.raises(RecipeRefused, match="timesteps"):
        changed(ONE_STEP, {"image_size": 64}).check(replace(teacher, schedule=schedule))


def test_margins_of_the_gate_are_those_of_the_report_too():
    """Older recipes have them in the gate alone."""
    plain = RECIPES["starter-1step"]
    assert plain.margins == plain.evaluation.margins == Margins()
    own = changed(plain, {"gate": {"to_teacher": {"attributes_right": 0.6}}})
    assert own.margins == Margins(attributes_right=0.6)
