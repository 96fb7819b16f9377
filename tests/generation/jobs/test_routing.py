"""Which release serves a request: by name, by kind, by what it was made for, and a canary by its share."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from generation.engine.release import PROMPT_EMBEDS
from generation.errors import ReleaseNotAvailable, VariantNotCovered
from generation.jobs import routing
from generation.models import PromptVariant, Release
from generation.releases import lifecycle as releases
from tests import tiny
from tests.people import make_release, make_variant

pytestmark = pytest.mark.django_db


@pytest.fixture
def root(settings) -> Path:
    settings.RELEASES_ROOT.mkdir(parents=True)
    return settings.RELEASES_ROOT


def registered(root: Path, name: str = "tiny", **options) -> Release:
    tiny.make_tiny_release(root / name, name=name, **options)
    return releases.register(root / name)


def test_without_a_model_the_student_is_meant_and_without_one_the_teacher(root: Path) -> None:
    teacher = releases.activate(registered(root, "t"))
    student = registered(root, "s", kind="student")
    assert routing.resolve(None, variant=PromptVariant(slug="vase")) == teacher
    releases.activate(student)
    assert routing.resolve(None, variant=PromptVariant(slug="vase")) == student
    assert routing.resolve("teacher", variant=PromptVariant(slug="vase")) == teacher
    assert routing.resolve("student", variant=PromptVariant(slug="vase")) == student


@pytest.mark.parametrize(("policy", "name"), [("teacher", "t"), ("student", "s"), ("refuse", None)])
def test_who_makes_what_the_student_does_not_cover_is_a_setting(root, settings, policy, name):
    settings.UNCOVERED = policy
    releases.activate(registered(root, "t"))
    student = releases.activate(registered(root, "s", kind="student"))
    student.manifest["covered_variants"] = ["vase"]
    student.save()
    assert routing.resolve(None, variant=PromptVariant(slug="vase")) == student
    if name is None:
        with pytest.raises(VariantNotCovered):
            routing.resolve(None, variant=PromptVariant(slug="mug"))
    else:
        assert routing.resolve(None, variant=PromptVariant(slug="mug")).name == name
    with pytest.raises(VariantNotCovered):
        routing.resolve("student", variant=PromptVariant(slug="mug"))


def test_a_release_is_found_by_name_unless_it_was_rejected(root: Path) -> None:
    release = registered(root)
    assert routing.resolve("tiny", variant=PromptVariant(slug="vase")) == release
    releases.reject(release)
    with pytest.raises(ReleaseNotAvailable, match="no release 'tiny'"):
        routing.resolve("tiny", variant=PromptVariant(slug="vase"))


@pytest.mark.parametrize("model", [None, "student", "teacher", "nobody"])
def test_what_is_not_served_is_refused(model: str | None) -> None:
    with pytest.raises(ReleaseNotAvailable):
        routing.resolve(model, variant=PromptVariant(slug="vase"))


# --- what it was made for -------------------------------------------------------------------------
@pytest.fixture
def student(tmp_path: Path) -> Release:
    """Of two texts, beside a teacher for everything else."""
    make_release(name="t", kind="teacher")
    student = make_release(name="s", covered_variants=["red-vase", "blue-bowl"])
    path = tmp_path / PROMPT_EMBEDS
    texts = json.dumps(["Red  vase", "blue bowl"])
    save_file({"prompt_embeds": np.zeros((2, 4, 8), np.float16)}, path, {"texts": texts})
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    student.manifest["files"] = [{"path": PROMPT_EMBEDS, "sha256": sha256}]
    student.path = str(tmp_path)
    student.save()
    return student


def test_a_variant_with_another_text_than_the_student_knows_goes_to_the_teacher(student):
    kept = make_variant(slug="red-vase", text="red vase", revision=2)  # another one, and back
    changed = make_variant(slug="blue-bowl", text="a big blue bowl", revision=2)

    assert routing.resolve(variant=kept).name == "s"
    assert routing.resolve(variant=changed).name == "t"
    with pytest.raises(VariantNotCovered, match="blue-bowl had another text"):
        routing.resolve("student", variant=changed)


def test_a_variant_that_was_made_anew_under_a_known_slug_is_told_by_its_text(student):
    make_variant(slug="blue-bowl", text="a bowl of another blue")

    variant = PromptVariant.objects.get()

    assert variant.created_at > student.registered_at
    assert routing.resolve(variant=variant).name == "t"


def test_a_release_whose_texts_cannot_be_read_serves_no_changed_text(student, tmp_path):
    (tmp_path / PROMPT_EMBEDS).write_bytes(b"damaged")
    changed = make_variant(slug="blue-bowl", text="a big blue bowl", revision=2)

    assert routing.resolve(variant=changed).name == "t"


# --- a canary -----------------------------------------------------------------------------------
@pytest.fixture
def tried() -> Release:
    make_release(name="active")
    canary = make_release(name="canary")
    canary.canary_percent = 20
    canary.save()
    return canary


def test_a_canary_gets_its_share_and_the_same_request_always_the_same_release(tried):
    lots = [f"red-vase {seed}" for seed in range(2000)]

    counts = Counter(
        routing.resolve(variant=PromptVariant(slug="red-vase"), lot=lot).name for lot in lots
    )

    assert 330 < counts["canary"] < 470  # of 2,000, at 20 %
    assert [
        routing.resolve(variant=PromptVariant(slug="x"), lot=lot).name for lot in lots[:50]
    ] == [routing.resolve(variant=PromptVariant(slug="x"), lot=lot).name for lot in lots[:50]]


def test_who_names_a_release_gets_that_one(tried):
    names = {
        routing.resolve("active", variant=PromptVariant(slug="x"), lot=str(seed)).name
        for seed in range(100)
    }

    assert names == {"active"}


def test_a_canary_serves_only_what_it_covers(tried):
    Release.objects.filter(name="canary").update(
        manifest=tried.manifest | {"covered_variants": ["blue-bowl"]}
    )

    assert {
        routing.resolve(variant=PromptVariant(slug="red-vase"), lot=str(n)).name for n in range(100)
    } == {"active"}
