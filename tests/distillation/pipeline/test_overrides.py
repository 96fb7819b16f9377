"""Changes of a recipe by the names of its fields, and refusal of invalid ones with the field."""

from dataclasses import dataclass, field
from math import inf, nan

import pytest

from distillation.pipeline import overrides
from distillation.trainers.objectives.guidance import GuidanceRecipe
from distillation.trainers.objectives.hinton import HintonRecipe
from distillation.training.errors import RecipeRefused


@dataclass(frozen=True)
class Inner:
    batch: int = 8
    rate: float = 0.5
    places: tuple[int, ...] = (1, 2)
    pair: tuple[float, float] = (0.5, 0.9)

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, not {self.batch}.")


@dataclass(frozen=True)
class Outer:
    name: str = "outer"
    scale: float | None = None
    is_on: bool = True
    inner: Inner = field(default_factory=Inner)
    objective: GuidanceRecipe | HintonRecipe = field(default_factory=GuidanceRecipe)
    extra: Inner | None = None


def test_fields_change_at_any_depth_and_the_rest_stays():
    changed = overrides.changed(Outer(), {"inner": {"batch": 2}, "scale": 1.5})

    assert changed == Outer(scale=1.5, inner=Inner(batch=2))


def test_texts_of_a_command_line_become_changes():
    parsed = overrides.parse(["inner.batch=2", "inner.places=[3, 4]", "name=other", "scale=null"])

    assert parsed == {"inner": {"batch": 2, "places": [3, 4]}, "name": "other", "scale": None}
    assert overrides.changed(Outer(scale=2.0), parsed) == Outer(
        name="other", scale=None, inner=Inner(batch=2, places=(3, 4))
    )


def test_a_whole_number_is_accepted_for_a_float():
    rate = overrides.changed(Outer(), {"inner": {"rate": 2}}).inner.rate

    assert isinstance(rate, float) and rate == 2
    assert overrides.changed(Outer(), {"inner": {"pair": [0, 1]}}).inner.pair == (0.0, 1.0)


def test_setting_a_field_of_an_omitted_part_adds_the_part_and_null_removes_it():
    changed = overrides.changed(Outer(), {"extra": {"batch": 2}})

    assert changed.extra == Inner(batch=2)
    assert overrides.changed(changed, {"extra": None}).extra is None


def test_another_method_is_a_recipe_with_its_own_fields():
    changed = overrides.changed(Outer(), {"objective": {"method": "hinton", "soft_weight": 0.5}})

    assert changed.objective == HintonRecipe(soft_weight=0.5)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"inner": {"size": 3}}, "inner.size"),
        ({"sise": 3}, "sise"),
        ({"inner": {"batch": "many"}}, "inner.batch"),
        ({"inner": {"batch": 2.5}}, "inner.batch"),
        ({"inner": {"batch": True}}, "inner.batch"),
        ({"inner": {"batch": None}}, "inner.batch"),
        ({"inner": {"places": 3}}, "inner.places"),
        ({"inner": {"rate": [1.0]}}, "inner.rate"),
        ({"is_on": 1}, "is_on"),
        ({"inner": 3}, "inner"),
        ({"inner": {"batch": 0}}, "inner.batch"),
        ({"inner": {"places": [1, "two"]}}, "inner.places"),
        ({"inner": {"places": [1.5]}}, "inner.places"),
        ({"inner": {"places": [True]}}, "inner.places"),
        ({"inner": {"places": [[1]]}}, "inner.places"),
        ({"inner": {"places": [None]}}, "inner.places"),
        ({"inner": {"pair": [0.5]}}, "inner.pair"),
        ({"inner": {"pair": [0.5, nan]}}, "inner.pair"),
        ({"inner": {"rate": nan}}, "inner.rate"),
        ({"inner": {"rate": inf}}, "inner.rate"),
        ({"inner": {"rate": 10**400}}, "inner.rate"),
        ({"objective": {"method": "alchemy"}}, "method"),
        ({"objective": {"method": "hinton", "feature_weight": 1.0}}, "feature_weight"),
    ],
)
def test_an_invalid_value_is_refused_with_its_field(change, named):
    with pytest.raises(RecipeRefused, match=named.replace(".", r"\.")):
        overrides.changed(Outer(), change)


@pytest.mark.parametrize("text", ["batch", "=3", "inner.=3", ".batch=3"])
def test_a_malformed_change_is_refused(text):
    with pytest.raises(RecipeRefused, match="FIELD=VALUE"):
        overrides.parse([text])


@pytest.mark.parametrize("texts", [["a=1", "a=2"], ["a=1", "a.b=2"], ["a.b=1", "a=2"]])
def test_a_field_that_is_given_twice_is_refused(texts):
    with pytest.raises(RecipeRefused, match="twice"):
        overrides.parse(texts)
