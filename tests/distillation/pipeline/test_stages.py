"""A stage's key names its folder: runs of before are gone on with only while the keys stay as they are."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distillation.pipeline.inputs import Inputs
from distillation.pipeline.recipes import RECIPES, Recipe, warm
from distillation.pipeline.stages import Chain
from distillation.resumable import stages
from distillation.trainers import catalogue
from distillation.trainers.catalogue import Catalogue
from distillation.trainers.dmd2 import MatchingRecipe

ONE_STEP, SD15 = RECIPES["starter-1step"], RECIPES["sd15-tiny-1step"]


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    for name in ("teacher", "student"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "release.json").write_text(name)
    (tmp_path / "detector").mkdir()
    (tmp_path / "detector" / "config.json").write_text("{}")
    snapshot = Catalogue(("a",), ("a",), torch.zeros(1, 2, 3).half(), "toy")
    catalogue.write(snapshot, tmp_path / "catalogue")
    (tmp_path / "catalogue" / catalogue.EXAMPLES).write_text("[]")
    return Inputs(
        teacher=tmp_path / "teacher",
        catalogue=tmp_path / "catalogue",
        student=tmp_path / "student",
        detector=tmp_path / "detector",
    )


def keys(recipe: Recipe, inputs: Inputs) -> dict[str, str]:
    return stages.keys(Chain(recipe, inputs).table())


@pytest.mark.parametrize(
    ("recipe", "last", "expected"),
    [
        (ONE_STEP, "pairs", "b483fd7e3db00d9d"),
        (ONE_STEP, "release", "991a9921bfc395e4"),
        (warm(ONE_STEP), "release", "ce7c442dda2daff6"),
        (SD15, "release", "c218bdb69786b350"),
        (warm(SD15), "release", "ea9bbad739c14a55"),
        (RECIPES["starter-2step"], "release", "c35b23a123f65a63"),
        (RECIPES["ensemble"], "release", "7a2f7abafb278cb0"),
        (RECIPES["bayes"], "release", "be3038ae0930499d"),
    ],
    ids=lambda value: value.name if isinstance(value, Recipe) else None,
)
def test_the_keys_of_known_recipes_are_those_of_before(inputs, recipe, last, expected):
    """Each hashes the keys that it needs, so the last stands for all. A change makes every run begin anew."""
    assert keys(recipe, inputs)[last] == expected


def test_a_new_decoder_is_trained_before_the_student_of_a_release_goes_on(inputs):
    def needs(recipe: Recipe) -> dict[str, tuple[str, ...]]:
        return {stage.name: stage.needs for stage in Chain(recipe, inputs).table()}

    kept, renewed = needs(warm(ONE_STEP)), needs(warm(ONE_STEP, keeps_decoder=False))
    assert kept["joint"] == ("pairs", "start")
    assert renewed["joint"] == ("pairs", "decoder", "start")
    assert renewed["decoder"] == ("pairs",)
    assert list(renewed) == ["pairs", "start", "decoder", *list(kept)[2:]]


def test_only_matching_with_heads_depends_on_the_accepted_pictures(inputs):
    plain = replace(SD15, matching=MatchingRecipe(adversarial=None, divergence="reverse_kl"))
    before = keys(SD15, inputs), keys(plain, inputs)
    (inputs.catalogue / catalogue.EXAMPLES).write_text("[{}]")
    after = keys(SD15, inputs), keys(plain, inputs)
    assert before[1] == after[1]
    changed = {name for name, key in before[0].items() if after[0][name] != key}
    assert {"pairs", "structure", "regression"}.isdisjoint(changed) and "matching" in changed
