"""Snapshots: named by content hash, with the accepted real images."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from distillation.errors import DistillationRefused
from distillation.examples import lifecycle as curation
from distillation.models import Example
from distillation.pipeline.stages import Chain
from distillation.resumable import stages
from distillation.runs import inputs, snapshot
from distillation.trainers import catalogue as catalogues
from generation.models import PromptVariant, Release
from tests.distillation.example_factories import make_example, make_source
from tests.distillation.management.test_distill import distil
from tests.distillation.pictures import png
from tests.distillation.toys import SMALL
from tests.factories import cover, make_quality, make_release, make_variant

pytestmark = pytest.mark.django_db
SIDE = 64  # the toy teacher's


@pytest.fixture
def variant(teacher) -> PromptVariant:
    return PromptVariant.objects.get(slug="a-red-clay-vase")


def make_accepted(variant: PromptVariant, seed: int, **fields) -> Example:
    source = make_source(variants=[variant])
    content = png(seed, width=SIDE, height=SIDE)
    return make_example(source=source, content=content, side=SIDE, override="accepted", **fields)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_same_catalogue_has_the_same_name_and_without_pictures_no_other_files(
    teacher, tmp_path
):
    make_example(source=make_source(), side=SIDE, content=png(1))  # not accepted
    one = snapshot.take(teacher, tmp_path / "one", detector=None)
    other = snapshot.take(teacher, tmp_path / "other", detector=None)
    assert one.name == other.name
    assert names(one) == {catalogues.INDEX, catalogues.TENSORS}


def test_accepted_pictures_are_part_of_the_snapshot_and_change_its_name(teacher, variant, tmp_path):
    before = snapshot.take(teacher, tmp_path, detector=None)
    first, second = make_accepted(variant, 1), make_accepted(variant, 2)
    taken = snapshot.take(teacher, tmp_path, detector=None)
    assert taken.name != before.name and snapshot.take(teacher, tmp_path, detector=None) == taken
    rows = json.loads((taken / catalogues.EXAMPLES).read_text())
    assert sorted(rows, key=lambda row: row["sha256"]) == [
        {"slug": variant.slug, "sha256": example.sha256, "file": example.file}
        for example in (first, second)
    ]
    assert names(snapshot.pictures(taken)) == {Path(row["file"]).name for row in rows}
    assert catalogues.read(taken).slugs == catalogues.read(before).slugs

    curation.override(Example.objects.all(), curation.Override.REJECTED, by=None)
    assert snapshot.take(teacher, tmp_path, detector=None) == before


def test_a_picture_of_two_variants_is_one_file(teacher, variant, tmp_path):
    example = make_accepted(variant, 1)
    example.source.variants.set(PromptVariant.objects.all())
    taken = snapshot.take(teacher, tmp_path, detector=None)
    rows = json.loads((taken / catalogues.EXAMPLES).read_text())
    assert [row["slug"] for row in rows] == ["a-blue-glass-mug", "a-red-clay-vase"]
    assert len(names(taken / catalogues.PICTURES)) == 1
    assert snapshot.pictures(taken) is None  # one is too few to be measured


def test_tags_that_cannot_both_be_shown_are_refused_with_their_variant(
    teacher, variant, detector, tmp_path
):
    variant.tags = ["vase", "bowl"]  # of one group of the detector's bits
    variant.save()
    with pytest.raises(DistillationRefused, match=r"a-red-clay-vase.*vase and bowl"):
        snapshot.take(teacher, tmp_path, detector=detector)


def test_other_sizes_lost_files_and_variants_that_are_not_active_are_left_out(
    teacher, variant, tmp_path, settings
):
    make_accepted(variant, 1)
    lost = make_accepted(variant, 2)
    (Path(settings.MEDIA_ROOT) / lost.file).unlink()
    Example.objects.filter(pk=make_accepted(variant, 3).pk).update(side=SIDE + 8)
    archived = PromptVariant.objects.create(
        slug="old", text="old", normalized_text="old", status="archived"
    )
    make_source(name="old", variants=[archived])
    make_example(source=make_source(name="old"), side=SIDE, override="accepted", content=png(4))
    taken = snapshot.take(teacher, tmp_path, detector=None)
    assert len(json.loads((taken / catalogues.EXAMPLES).read_text())) == 1


def test_pictures_outlive_the_file_that_they_came_from(teacher, variant, tmp_path, settings):
    examples = [make_accepted(variant, seed) for seed in (1, 2)]
    taken = snapshot.take(teacher, tmp_path, detector=None)
    for example in examples:
        (Path(settings.MEDIA_ROOT) / example.file).unlink()
    assert all(path.stat().st_size for path in snapshot.pictures(taken).iterdir())


# --- use of snapshots -----------------------------------------------------------------------------
def changed(before: inputs.Inputs, after: inputs.Inputs, recipe: dict) -> set[str]:
    """Return the stages with other keys."""
    one, other = (
        stages.keys(Chain(inputs.recipe_of(recipe), given, name="toy").table())
        for given in (before, after)
    )
    return {name for name in one if one[name] != other[name]}


def test_real_pictures_change_measurements_but_no_training_without_heads(
    teacher, variant, detector, tmp_path
):
    (tmp_path / "clip").mkdir()
    judges = {"detector": str(detector), "clip": str(tmp_path / "clip")}
    before = inputs.gather(teacher, **judges)
    for seed in (1, 2):
        make_accepted(variant, seed)
    after = inputs.gather(teacher, **judges)
    assert before.real is None and after.real == snapshot.pictures(after.catalogue)
    alone = inputs.gather(teacher, detector=str(detector))
    assert alone.clip is None and alone.real is not None  # compared by sharpness and texture
    assert inputs.gather(teacher, real=str(tmp_path), **judges).real == tmp_path

    assert changed(before, after, {"recipe": "starter-1step"}) == {"evaluation", "gate", "release"}
    with_heads = {"recipe": "starter-1step", "matching": {}}
    assert changed(before, after, with_heads) == {
        "matching", "joint", "quantise", "bundle", "evaluation", "gate", "release",
    }  # fmt: skip


@pytest.mark.slow
def test_a_student_is_distilled_with_real_pictures(teacher, variant, detector):
    for seed in (1, 2):
        make_accepted(variant, seed)
    heads = ("matching.adversarial.learn_after=0", "matching.adversarial.gan_after=0")
    distil("--detector", str(detector), "--name", "toy-student", changes=(*SMALL, *heads))
    assert Release.objects.filter(name="toy-student").exists()


def test_a_part_is_compared_with_the_student_that_serves_most_of_it(teacher):
    make_variant(text="a blue vase", tags=["vase"])
    make_variant(text="a green cone", tags=["cone"])
    assert inputs.compared_with(teacher, []) is None
    main = make_release(name="main", encoder_fingerprint=teacher.encoder_fingerprint)
    vases = make_release(name="vases", status="specialist", covered_variants=["a-blue-vase"])
    assert inputs.compared_with(teacher, ["vase"]) == main
    for text in ("a blue vase", "a red clay vase"):
        make_quality(main, text, 1)
        make_quality(vases, text, 4)
    assert inputs.compared_with(teacher, ["vase"]) in (main, vases)
    cover(vases, {"a-blue-vase": "", "a-red-clay-vase": ""})
    assert inputs.compared_with(teacher, ["vase"]) == vases
    assert inputs.compared_with(teacher, ["cone"]) == inputs.compared_with(teacher, []) == main


def test_a_part_is_chosen_before_the_number_of_variants_is_limited(teacher, tmp_path):
    taken = snapshot.take(teacher, tmp_path, detector=None, most=1, tags=["vase"])
    assert catalogues.read(taken).slugs == ("a-red-clay-vase",)


def test_prompts_that_no_student_makes_well_are_named_and_get_more_pairs(
    teacher, tmp_path, detector
):
    plain = snapshot.take(teacher, tmp_path, detector=detector)
    main = make_release(name="main", encoder_fingerprint=teacher.encoder_fingerprint)
    make_quality(main, "a blue glass mug", 4)
    make_quality(main, "a red clay vase", 2)
    assert snapshot.take(teacher, tmp_path, detector=detector) == plain
    main.qualities.filter(normalized_text="a red clay vase").update(evaluated_right=1)
    hard = snapshot.take(teacher, tmp_path, detector=detector)
    assert catalogues.read_hard(hard) == {"a-red-clay-vase": 1}
    main.qualities.filter(normalized_text="a red clay vase").update(evaluated_right=0)
    hardest = snapshot.take(teacher, tmp_path, detector=detector)
    assert catalogues.read_hard(hardest) == {"a-red-clay-vase": 2}

    def files(taken: Path, **changes: object) -> list[str]:
        given = inputs.gather(teacher, catalogue=taken, detector=str(detector))
        recipe = replace(inputs.recipe_of({"recipe": "starter-1step"}), **changes)
        chain = Chain(recipe, given)
        return [stages.keys(chain.table())["pairs"], *map(str, chain.files_of_pairs())]

    assert files(hard, hard_weight=1) == files(plain)
    assert [len(files(taken)) for taken in (plain, hard, hardest)] == [3, 4, 5]
    assert len({files(taken)[0] for taken in (plain, hard, hardest)}) == 3
    assert files(hardest)[1:3] == files(plain)[1:]
