"""A method's number of steps follows from its measured pace, which is measured once."""

import json

import pytest

from distillation.method_comparison.calibration import Calibration, Pace
from distillation.trainers.objectives.bayes import BayesRecipe
from distillation.trainers.structure import StructureRecipe
from distillation.training.errors import RecipeRefused
from tests.distillation.trainers.objectives import toys


def test_the_steps_fill_the_time_after_the_set_up():
    assert Pace(before=10, step=0.5).steps(60) == 100
    with pytest.raises(RecipeRefused, match=r"minutes: 0\.1 are too few.*10 seconds"):
        Pace(before=10, step=0.5).steps(6)


@pytest.mark.slow
def test_a_pace_is_measured_once_and_contains_the_time_before_the_first_step(tmp_path):
    inputs = toys.inputs(toys.teacher(), tmp_path / "unused")
    recipe = StructureRecipe(
        objective=BayesRecipe(fisher_batches=1, fisher_batch=2), batch=4, weight_decay=0.0
    )
    path = tmp_path / "kept" / "calibration.json"
    found = Calibration(path).pace(recipe, lambda: inputs, student_recipe=toys.TINY)
    assert found.before > 0 and found.step > 0
    assert not (tmp_path / "unused").exists()

    kept = json.loads(path.read_text("utf-8"))
    [key] = kept
    path.write_text(json.dumps({key: {"before": 1.0, "step": 2.0}}), "utf-8")

    def read_again():
        raise AssertionError("The pairs were read again.")

    assert Calibration(path).pace(recipe, read_again, student_recipe=toys.TINY) == Pace(1.0, 2.0)
