"""The table of stages, and all stages together at toy size, up to a release that the engine loads."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from distillation.resumable import stages
from distillation.starter import recipe, rendering
from distillation.starter.report import writer as report
from distillation.starter.words import COMBINATIONS
from generation.engine import release
from tests.distillation.starter import toys

NAMES = [
    "scenes", "captions", "detector", "clip", "vae", "latents", "weak_teacher", "teacher", "guided", "decoder",
    "examiner", "pack",
]  # fmt: skip


def test_both_tables_have_the_same_stages_and_only_the_captions_have_equal_keys():
    full, quick = stages.keys(recipe.STAGES), stages.keys(recipe.QUICK)
    assert list(full) == list(quick) == NAMES
    assert {name for name in NAMES if full[name] == quick[name]} == {"captions"}


def test_every_recipe_is_frozen():
    for stage in (*recipe.STAGES, *recipe.QUICK):
        first = dataclasses.fields(stage.recipe)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(stage.recipe, first, None)


@pytest.mark.parametrize(
    ("changed", "unchanged"),
    [
        ({"pack": recipe.PackRecipe(guidance_scale=5.5)}, set(NAMES) - {"pack"}),
        ({"teacher": recipe.TeacherRecipe(seed=9)}, set(NAMES) - {"pack", "guided", "teacher"}),
        (
            {"detector": recipe.DetectorStageRecipe(recipe.DetectorRecipe(seed=9))},
            set(NAMES) - {"pack", "detector"},
        ),
        (
            {"captions": recipe.CaptionsRecipe("another grammar")},
            {"scenes", "detector", "vae", "latents", "decoder", "examiner"},
        ),
        ({"vae": recipe.VaeRecipe(seed=9)}, {"scenes", "captions", "detector", "clip", "examiner"}),
        ({"scenes": rendering.Recipe(train=5000)}, {"captions", "examiner"}),
    ],
)
def test_a_changed_recipe_rebuilds_only_the_stages_that_depend_on_it(changed, unchanged):
    before = stages.keys(recipe.STAGES)
    after = stages.keys(recipe.table(dataclasses.replace(recipe.FULL_RECIPES, **changed)))
    assert {name for name in NAMES if before[name] == after[name]} == unchanged


def test_texts_are_distinct_and_of_at_most_twelve_words():
    texts = recipe.texts()
    assert len(texts) > 4 * len(COMBINATIONS)
    assert max(len(text.split()) for text in texts) <= 12


# --- all stages -----------------------------------------------------------------------------------
def toy(**changes: object) -> tuple[stages.Stage, ...]:
    quick = recipe.QUICK_RECIPES
    short = {"steps": 2, "warmup": 1}
    return recipe.table(
        dataclasses.replace(
            quick,
            detector=dataclasses.replace(
                quick.detector, training=dataclasses.replace(quick.detector.training, **short)
            ),
            clip=dataclasses.replace(quick.clip, **short),
            vae=dataclasses.replace(quick.vae, crop_steps=1, whole_steps=1, warmup=1),
            latents=dataclasses.replace(quick.latents, is_mirrored=False),
            teacher=dataclasses.replace(quick.teacher, **short),
            **changes,
        )
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, dict[str, Path]]:
    root = tmp_path_factory.mktemp("starter")
    (scenes, *_) = table = toy()
    toys.paint(stages.folder_of(table, root, "scenes"), scenes.recipe.sizes())
    return root, stages.build(table, root, progress_bar=False)


@pytest.mark.slow
def test_all_stages_together_make_a_release_with_its_judges_and_history(built):
    _, folders = built
    made = recipe.packed(folders["pack"])
    manifest = release.verify(made.teacher)
    assert (manifest.name, manifest.kind, manifest.num_inference_steps) == (
        "starter-toy",
        "teacher",
        4,
    )
    assert {path.name for path in made.judges.iterdir()} == {"detector", "clip", "examiner"}
    history = {path.name for path in made.history.iterdir()}
    assert history == {f"{name}.json" for name in NAMES if name != "pack"} | {
        f"{name}.jsonl" for name in ("detector", "clip", "vae", "teacher", "decoder", "examiner")
    }


@pytest.mark.slow
def test_the_engine_loads_the_release(built):
    from generation.engine import pipeline

    _, folders = built
    loaded = pipeline.load(recipe.packed(folders["pack"]).teacher)
    assert loaded.runtime.vae.config.scaling_factor != 1.0
    assert torch.isfinite(next(loaded.runtime.unet.parameters())).all()


@pytest.mark.slow
def test_another_guidance_scale_rebuilds_only_the_pack(built):
    root, folders = built
    again = stages.build(
        toy(pack=recipe.PackRecipe(name="starter-toy", steps=4, guidance_scale=2.5)),
        root,
        progress_bar=False,
    )
    assert {name for name in NAMES if folders[name] != again[name]} == {"pack"}
    assert release.read(recipe.packed(again["pack"]).teacher).guidance_scale == 2.5


@pytest.mark.slow
def test_publishing_replaces_the_committed_folders_completely(built, tmp_path):
    _, folders = built
    target = recipe.packed(tmp_path / "committed")
    target.teacher.mkdir(parents=True)
    (target.teacher / "left-over.txt").write_text("of an older release")
    catalogue = tmp_path / "catalogue.csv"
    recipe.publish(folders["pack"], target=target, catalogue=catalogue)
    assert release.verify(target.teacher).name == "starter-toy"
    assert (target.judges / "clip" / "config.json").is_file()
    assert (target.history / "teacher.jsonl").is_file()
    assert catalogue.read_text().startswith("slug,text,tags")


@pytest.mark.slow
def test_a_quick_report_measures_the_result(built, tmp_path):
    root, folders = built
    made = recipe.packed(folders["pack"])
    written = report.write(
        root, made.teacher, made.judges, docs=tmp_path, quick=True, progress_bar=False
    )
    figures = json.loads((tmp_path / "starter" / "figures.json").read_text())
    assert written == tmp_path / "starter.md" and figures["release"] == "starter-toy"
    assert "| latents | 0." in written.read_text()


def test_nothing_is_published_outside_the_project():
    root = Path(__file__).resolve().parents[3]
    places = [*dataclasses.astuple(recipe.PUBLISHED), recipe.CATALOGUE]
    assert [str(path.relative_to(root)) for path in places] == [
        "generation/starter/teacher-2",
        "distillation/starter/judges",
        "distillation/starter/history",
        "generation/starter/catalogue.csv",
    ]
