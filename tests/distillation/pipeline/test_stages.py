"""A stage's key names its folder. Existing runs can continue only while the keys stay the same."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from distillation.pipeline import overrides
from distillation.pipeline.inputs import Inputs, new_rows
from distillation.pipeline.recipes import RECIPES, Recipe, warm
from distillation.pipeline.stages import Chain
from distillation.resumable import stages
from distillation.trainers import catalogue
from distillation.trainers.catalogue import Catalogue
from distillation.trainers.dmd2.recipe import MatchingRecipe
from distillation.trainers.labels import LabelsRecipe
from distillation.trainers.patches import PatchesRecipe
from distillation.training.errors import TrainingError
from generation.engine import importing
from generation.engine import release as releases
from generation.engine.importing import Options
from generation.engine.release import PROMPT_EMBEDS
from tests import tiny
from tests.distillation.toys import SMALL

ONE_STEP, SD15 = RECIPES["starter-1step"], RECIPES["sd15-tiny-1step"]
SMALLER = replace(ONE_STEP, image_size=64)  # of the tiny release
PATCHED = replace(
    ONE_STEP,
    decoder=replace(ONE_STEP.decoder, patches=PatchesRecipe()),
    joint=replace(ONE_STEP.joint, patches=PatchesRecipe()),
)


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
        (ONE_STEP, "bundle", "35aa8af326edf490"),
        (ONE_STEP, "release", "e6665123257ee4d0"),
        (warm(ONE_STEP), "bundle", "1d4906e2c2b54ec1"),
        (SD15, "bundle", "e930375a22281e1c"),
        (warm(SD15), "bundle", "8d10f68a550d2ba8"),
        (RECIPES["starter-2step"], "bundle", "e5bc9750fe8926dd"),
        (RECIPES["ensemble"], "bundle", "6964e2e83c3d9ced"),
        (RECIPES["bayes"], "bundle", "6fdf8fea0ed99cb6"),
    ],
    ids=lambda value: value.name if isinstance(value, Recipe) else None,
)
def test_the_keys_of_known_recipes_are_unchanged(inputs, recipe, last, expected):
    """Each hashes the keys that it needs, so "bundle" stands for all that is trained; "release" has the evaluation too.

    If the key of the first stage changes, every run starts from the beginning.
    """
    assert keys(recipe, inputs)[last] == expected


def test_labels_change_the_joint_training_alone(inputs):
    before = keys(ONE_STEP, inputs)
    after = keys(replace(ONE_STEP, labels=LabelsRecipe()), inputs)
    changed = {name for name, key in before.items() if after[name] != key}
    assert {"pairs", "decoder", "structure", "regression"}.isdisjoint(
        changed
    ) and "joint" in changed


def test_a_new_decoder_is_trained_before_the_training_of_a_release_continues(inputs):
    def needs(recipe: Recipe) -> dict[str, tuple[str, ...]]:
        return {stage.name: stage.needs for stage in Chain(recipe, inputs).table()}

    kept, renewed = needs(warm(ONE_STEP)), needs(warm(ONE_STEP, keeps_decoder=False))
    assert kept["joint"] == ("pairs", "start")
    assert renewed["joint"] == ("pairs", "decoder", "start")
    assert renewed["decoder"] == ("pairs",)
    assert list(renewed) == ["pairs", "start", "decoder", *list(kept)[2:]]


@pytest.mark.parametrize(
    ("recipe", "reads"),
    [
        (SD15, {"matching"}),
        (replace(SD15, matching=MatchingRecipe(adversarial=None)), set()),
        (PATCHED, {"decoder", "joint"}),
        (replace(PATCHED, decoder=replace(PATCHED.decoder, patches=None)), {"joint"}),
    ],
    ids=["heads", "neither", "patches", "patches of joint"],
)
def test_only_stages_with_a_discriminator_depend_on_the_accepted_pictures(inputs, recipe, reads):
    def own() -> dict[str, str]:
        """Return the keys without those of the stages that each stage needs."""
        table = Chain(recipe, inputs, name="toy").table()
        return {stage.name: stages.key_of(stage.recipe) for stage in table}

    before = own()
    (inputs.catalogue / catalogue.EXAMPLES).write_text("[{}]")
    after = own()
    assert {name for name, key in before.items() if after[name] != key} == reads


def test_with_fresh_seeds_the_active_release_is_measured_in_each_run(inputs, tmp_path):
    """It is compared on the candidate's seeds; the core alone is shared by all runs."""
    manifest = tiny.make_tiny_release(tmp_path / "active", name="active", kind="student")
    known = Catalogue(("a",), ("a",), torch.zeros(1, 2, 3).half(), manifest.encoder_fingerprint)
    catalogue.write(known, inputs.catalogue)
    inputs = replace(inputs, active=tmp_path / "active")
    fresh = replace(SMALLER, evaluation=replace(ONE_STEP.evaluation, fresh_seeds=4))
    shared = replace(SMALLER, evaluation=replace(ONE_STEP.evaluation, fresh_seeds=0))
    for recipe, is_shared in ((fresh, False), (shared, True)):
        first, second = (
            stages.keys(Chain(recipe, inputs, name=name).table())["incumbent"]
            for name in ("run-1", "run-2")
        )
        assert (first == second) == is_shared


def test_an_active_release_of_another_size_is_not_measured(inputs, tmp_path):
    """Its pictures cannot be compared with those of a teacher whose pictures are larger."""
    manifest = tiny.make_tiny_release(tmp_path / "active", name="active", kind="student")
    known = Catalogue(("a",), ("a",), torch.zeros(1, 2, 3).half(), manifest.encoder_fingerprint)
    catalogue.write(known, inputs.catalogue)
    inputs = replace(inputs, active=tmp_path / "active")
    assert "incumbent" in keys(SMALLER, inputs)
    assert "incumbent" not in keys(ONE_STEP, inputs)


def test_a_prompt_whose_text_has_changed_is_new_to_the_active_release(inputs, tmp_path):
    """A run starts because of it, so the gate must count it as a prompt that only the candidate covers."""
    folder = tmp_path / "active"
    manifest = tiny.make_tiny_release(folder, name="active", kind="student")
    save_file(
        {"prompt_embeds": torch.zeros(2, *manifest.embedding_shape).half()},
        folder / PROMPT_EMBEDS,
        {"texts": json.dumps(["A  mug", "a vase"])},
    )
    files = releases.list_files(folder)
    releases.write(folder, replace(manifest, covered_variants=["mug", "vase"], files=files))
    slugs, texts = ("cone", "mug", "vase"), ("a cone", "a mug", "a red vase")
    embeds = torch.zeros(3, 2, 3).half()
    known = Catalogue(slugs, texts, embeds, manifest.encoder_fingerprint)
    catalogue.write(known, inputs.catalogue)
    chain = Chain(SMALLER, replace(inputs, active=folder))
    assert chain._acceptance._of_active.slugs == ("mug",)
    assert new_rows(known, folder) == [0, 2]
    assert new_rows(known, None) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("decoder.blocks=[0,0,0]", "decoder.blocks"),
        ("decoder.scales=7", "decoder.scales"),
        ("regression.perception.levels=9", "levels"),
        ("matching.perception.levels=9", "levels"),
        ('matching.adversarial.layers=["nowhere"]', "layers"),
        ("structure.batch=1", "batch"),
        ("pairs.path_timesteps=[]", "path_share"),
        ('structure.objective={"feature_weight":1,"method":"guidance"}', "feature_weight"),
        ('structure.objective={"method":"ensemble","teachers":["nowhere"]}', "nowhere"),
        ("evaluation.speed.device=abacus", "abacus"),
    ],
)
def test_a_recipe_that_contradicts_the_teacher_is_refused_before_the_first_stage(
    toy_teacher, detector, tmp_path, change, named
):
    field = change.partition("=")[0]
    kept = [one for one in SMALL if not field.startswith(one.partition("=")[0])]
    more = ["student.width=1/2"] if "feature_weight" in change else []
    changes = overrides.parse([*kept, "matching.fake_score=student", *more, change])
    recipe = overrides.changed(ONE_STEP, changes)
    manifest = releases.read(toy_teacher)
    embeds = torch.zeros(1, *manifest.embedding_shape).half()
    known = Catalogue(("a",), ("a",), embeds, manifest.encoder_fingerprint)
    catalogue.write(known, tmp_path / "known")
    given = Inputs(teacher=toy_teacher, catalogue=tmp_path / "known", detector=detector)

    with pytest.raises(TrainingError, match=named):
        Chain(recipe, given, name="toy-student").check()


def test_a_teacher_whose_students_cannot_be_bundled_is_refused_before_the_first_stage(
    detector, tmp_path
):
    source = tiny.make_sd15_folder(tmp_path / "sd15")
    config = json.loads((source / "unet/config.json").read_text())
    (source / "unet/config.json").write_text(json.dumps({**config, "center_input_sample": True}))
    options = Options(steps=4, guidance_scale=3.0)
    manifest = importing.import_folder(source, tmp_path / "toy", name="toy", options=options)
    embeds = torch.zeros(1, *manifest.embedding_shape).half()
    known = Catalogue(("a",), ("a",), embeds, manifest.encoder_fingerprint)
    catalogue.write(known, tmp_path / "known")
    given = Inputs(teacher=tmp_path / "toy", catalogue=tmp_path / "known", detector=detector)
    recipe = overrides.changed(ONE_STEP, overrides.parse(SMALL))

    with pytest.raises(TrainingError, match="center_input_sample"):
        Chain(recipe, given, name="toy-student").check()


def test_pictures_and_names_that_the_evaluation_cannot_use_are_refused_before_the_first_stage(
    toy_teacher, detector, tmp_path
):
    recipe = overrides.changed(ONE_STEP, overrides.parse(SMALL))
    manifest = releases.read(toy_teacher)
    embeds = torch.zeros(1, *manifest.embedding_shape).half()
    known = Catalogue(("a",), ("a",), embeds, manifest.encoder_fingerprint)
    catalogue.write(known, tmp_path / "known")
    (tmp_path / "empty").mkdir()
    given = Inputs(teacher=toy_teacher, catalogue=tmp_path / "known", detector=detector)
    Chain(recipe, given, name="toy-student").check()

    for wrong, name, named in (
        (replace(given, real=tmp_path / "empty"), "toy-student", "empty contains 0 images"),
        (replace(given, clip=tmp_path / "empty"), "toy-student", "empty"),
        (given, "../student", "name"),
    ):
        with pytest.raises(TrainingError, match=named):
            Chain(recipe, wrong, name=name).check()
