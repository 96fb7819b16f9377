"""Every method of the table is changed by its own fields, and refuses those of another by their name."""

import json
from dataclasses import asdict

import pytest

from distillation.pipeline.overrides import changed
from distillation.trainers.objectives.ensemble import EnsembleRecipe
from distillation.trainers.objectives.methods import METHODS
from distillation.trainers.structure import StructureRecipe
from distillation.training.errors import RecipeRefused

STRUCTURE = StructureRecipe(weight_decay=0.0)


def of(values: dict) -> object:
    return changed(STRUCTURE, {"objective": values}).objective


@pytest.mark.parametrize("name", METHODS)
def test_a_recipe_is_read_back_from_json(name):
    recipe = METHODS[name]()
    assert recipe.method == name
    assert of(json.loads(json.dumps(asdict(recipe)))) == recipe


def test_lists_from_json_become_tuples():
    read = of({"method": "ensemble", "teachers": ["a", "b"]})
    assert read == EnsembleRecipe(teachers=("a", "b"))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"method": "guidance", "temperature": 2.0}, "objective.temperature"),
        ({"method": "hinton", "feature_weight": 1.0}, "objective.feature_weight"),
        ({"method": "gan"}, "objective.method"),
        ({"method": ["guidance"]}, "objective.method"),
        ({"method": "mmd", "nearest": "three"}, "objective.nearest"),
        ({"method": "mmd", "samples": True}, "objective.samples"),
        ({"method": "bayes", "examples": [3]}, "objective.examples"),
        ({"method": "ensemble", "weights": 0.5}, "objective.weights"),
    ],
)
def test_fields_of_another_method_or_kind_are_refused(values, named):
    with pytest.raises(RecipeRefused, match=named):
        of(values)
