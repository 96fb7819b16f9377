"""The table knows every method, and a recipe of JSON values is refused by the name of what does not fit."""

import json
from dataclasses import asdict

import pytest

from distillation.trainers.objectives.ensemble import EnsembleRecipe
from distillation.trainers.objectives.methods import METHODS, recipe_of


@pytest.mark.parametrize("name", METHODS)
def test_a_recipe_comes_back_from_json(name):
    recipe = METHODS[name]()
    assert recipe.method == name
    assert recipe_of(json.loads(json.dumps(asdict(recipe)))) == recipe


def test_lists_are_tuples_again():
    read = recipe_of({"method": "ensemble", "guidance_scales": [1.0, 2.0]})
    assert read == EnsembleRecipe(guidance_scales=(1.0, 2.0))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"method": "guidance", "temperature": 2.0}, "temperature"),
        ({"method": "hinton", "feature_weight": 1.0}, "feature_weight"),
        ({"method": "gan"}, "method"),
        ({"hard_weight": 0.1}, "method"),
        ({"method": ["guidance"]}, "method"),
        ({"method": "mmd", "nearest": "three"}, "nearest"),
        ({"method": "mmd", "samples": True}, "samples"),
        ({"method": "bayes", "examples": [3]}, "examples"),
        ({"method": "ensemble", "weights": 0.5}, "weights"),
    ],
)
def test_fields_of_another_method_or_kind_are_refused(values, named):
    with pytest.raises(ValueError, match=named):
        recipe_of(values)
