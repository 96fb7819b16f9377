"""Every method of the structure stage is compared, each with as many values of its weight."""

from dataclasses import fields

import pytest

from distillation.method_comparison import settings
from distillation.method_comparison.settings import SETTINGS, SQUARED
from distillation.trainers.objectives.methods import METHODS
from distillation.training.errors import RecipeRefused

WEIGHTLESS = (SQUARED, "scratch")


def test_all_methods_but_the_baseline_have_as_many_settings():
    assert {one.method for each in SETTINGS.values() for one in each} == set(METHODS)
    tuned = {name: each for name, each in SETTINGS.items() if name not in WEIGHTLESS}
    assert {len(each) for each in tuned.values()} == {settings.MAX_TRIALS}
    assert all(len(SETTINGS[name]) == 1 for name in WEIGHTLESS)
    assert [len(set(each)) == len(each) for each in SETTINGS.values()] == [True] * len(SETTINGS)


def test_the_first_setting_is_the_recipe_as_it_ships():
    for name, each in SETTINGS.items():
        shipped = METHODS[each[0].method]()
        differing = {
            f.name for f in fields(shipped) if getattr(shipped, f.name) != getattr(each[0], f.name)
        }
        assert differing <= ({"feature_weight"} if name in (SQUARED, "guidance") else set())


def test_settings_are_named_by_what_differs():
    assert settings.label("hinton", SETTINGS["hinton"][1]) == "temperature 0.5"
    assert settings.label("mmd", SETTINGS["mmd"][1]) == "kernel gaussian, mmd_weight 10"
    assert settings.label(SQUARED, SETTINGS[SQUARED][0]) == ""


def test_the_baseline_is_always_included_and_teachers_are_given_to_the_ensemble():
    found = settings.chosen(["ensemble"], trials=2, teachers=["a", "b"])
    assert list(found) == [SQUARED, "ensemble"]
    assert [one.teachers for one in found["ensemble"]] == [("a", "b")] * 2
    assert "ensemble" not in settings.chosen([], trials=1, teachers=[])
    with pytest.raises(RecipeRefused, match="Only the method ensemble"):
        settings.chosen(["mmd"], trials=1, teachers=["a"])
