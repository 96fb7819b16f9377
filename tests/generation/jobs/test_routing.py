"""Routing: the release that serves a request, by name, kind or coverage; the share of a canary."""

from collections import Counter

import pytest

from generation.catalogue import variants as catalogue
from generation.errors import (
    EncodingFailed,
    ReleaseNotAvailable,
    VariantNotCovered,
    VariantNotEncoded,
    VariantNotFound,
)
from generation.jobs import routing
from generation.models import PromptVariant, Release
from generation.releases import lifecycle as releases
from generation.releases.default_release import Serving
from tests.factories import cover, make_embedding, make_quality, make_release, make_variant

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def encoded() -> None:
    for slug in ("red-vase", "blue-bowl"):
        make_embedding(variant=make_variant(slug=slug))


def served_by(model: str | None, slug: str, sampling_key: str = "") -> str:
    return routing.resolve(model, slug=slug, sampling_key=sampling_key).release.name


def rewrite(slug: str, text: str) -> None:
    """Give the variant this text, encoded."""
    variant = PromptVariant.objects.get(slug=slug)
    variant.text, variant.normalized_text, variant.revision = text, text, variant.revision + 1
    variant.save()
    make_embedding(variant=variant)


def test_without_a_model_the_student_serves_and_without_a_student_the_teacher() -> None:
    make_release(name="t", kind="teacher")
    assert served_by(None, "red-vase") == "t"
    make_release(name="s")
    assert served_by(None, "red-vase") == "s"
    assert served_by("teacher", "red-vase") == "t"
    assert served_by("student", "red-vase") == "s"


@pytest.mark.parametrize(("policy", "name"), [("teacher", "t"), ("student", "s"), ("refuse", None)])
def test_a_setting_decides_which_release_serves_uncovered_variants(settings, policy, name):
    settings.UNCOVERED = policy
    make_release(name="t", kind="teacher")
    make_release(name="s", covered_variants=["red-vase"])
    assert served_by(None, "red-vase") == "s"
    if name is None:
        with pytest.raises(VariantNotCovered):
            served_by(None, "blue-bowl")
    else:
        assert served_by(None, "blue-bowl") == name
    with pytest.raises(VariantNotCovered, match="covers 1 prompt variant, but not blue-bowl"):
        served_by("student", "blue-bowl")


def test_a_release_is_found_by_name_unless_it_was_rejected() -> None:
    make_release(name="active")
    release = make_release(name="tiny", status="retired")
    assert served_by("tiny", "red-vase") == "tiny"
    releases.reject(release)
    with pytest.raises(ReleaseNotAvailable, match="no release 'tiny'"):
        served_by("tiny", "red-vase")


@pytest.mark.parametrize("model", [None, "student", "teacher", "nobody", "no\0body"])
def test_a_model_that_is_not_in_service_is_refused(model: str | None) -> None:
    with pytest.raises(ReleaseNotAvailable):
        served_by(model, "red-vase")


@pytest.mark.parametrize(
    ("slug", "words"),
    [("green-mug", "green-mug"), ("archived", "is archived"), ("a\0b", "no such active")],
)
def test_a_variant_that_is_not_active_is_refused(slug: str, words: str) -> None:
    make_release()
    make_variant(slug="archived", status="archived")
    with pytest.raises(VariantNotFound, match=words):
        served_by(None, slug)


def test_the_embedding_is_that_of_the_current_text_under_the_releases_encoder():
    make_release()
    make_release(name="t", kind="teacher", encoder_fingerprint="f" * 64)
    variant = PromptVariant.objects.get(slug="red-vase")
    own, of_teacher = (
        make_embedding(variant=variant),
        make_embedding(variant=variant, encoder_fingerprint="f" * 64),
    )
    assert routing.resolve(None, slug="red-vase").embedding == own
    assert routing.resolve("teacher", slug="red-vase").embedding == of_teacher
    with pytest.raises(VariantNotEncoded, match="the encoder changed"):
        served_by("teacher", "blue-bowl")
    make_variant(slug="new")
    with pytest.raises(VariantNotEncoded, match="not been encoded yet"):
        served_by(None, "new")
    make_embedding(variant=make_variant(slug="again"), error=catalogue.ENCODE_AGAIN)
    with pytest.raises(VariantNotEncoded, match="not been encoded yet"):
        served_by(None, "again")
    make_embedding(variant=make_variant(slug="long"), error="78 tokens.")
    with pytest.raises(EncodingFailed, match="78 tokens") as caught:
        served_by(None, "long")
    assert not caught.value.retryable
    PromptVariant.objects.update(revision=2)
    with pytest.raises(VariantNotEncoded, match="stale"):
        served_by(None, "red-vase")


# --- coverage -------------------------------------------------------------------------------------
@pytest.fixture
def student() -> Release:
    """A student of two texts, and a teacher for everything else."""
    make_release(name="t", kind="teacher")
    student = make_release(name="s")
    cover(student, {"red-vase": "red vase", "blue-bowl": "blue bowl"})
    return student


def test_a_variant_with_another_text_than_the_student_covers_goes_to_the_teacher(student):
    assert served_by(None, "blue-bowl") == "s"
    rewrite("blue-bowl", "a big blue bowl")

    assert served_by(None, "blue-bowl") == "t"
    with pytest.raises(VariantNotCovered, match="blue-bowl had another text"):
        served_by("student", "blue-bowl")
    rewrite("blue-bowl", "blue bowl")
    assert served_by(None, "blue-bowl") == "s"


def test_a_new_variant_under_a_known_slug_is_covered_if_its_text_is_the_same(student):
    PromptVariant.objects.all().delete()
    make_embedding(variant=make_variant(slug="blue-bowl", text="a bowl of another blue"))
    make_embedding(variant=make_variant(slug="red-vase", text="red vase"))

    assert (served_by(None, "blue-bowl"), served_by(None, "red-vase")) == ("t", "s")


def test_a_release_without_texts_covers_its_slugs_whatever_their_text(student):
    cover(student, {"blue-bowl": ""})
    rewrite("blue-bowl", "a big blue bowl")

    assert served_by(None, "blue-bowl") == "s"


# --- quality --------------------------------------------------------------------------------------
def served_at(student_right: int | None, teacher_right: int | None) -> str:
    """Return the serving release if student and teacher make so many of four pictures right; None: not judged."""
    for name, right in (("s", student_right), ("t", teacher_right)):
        if right is not None:
            make_quality(Release.objects.get(name=name), "red vase", right)
    return served_by(None, "red-vase")


@pytest.mark.parametrize(
    ("student_right", "teacher_right", "name"),
    [
        (4, 4, "s"),
        (2, 4, "s"),
        (1, 2, "t"),
        (1, 1, "s"),
        (1, 0, "s"),
        (1, None, "t"),
        (None, 4, "s"),
    ],
)
def test_a_prompt_that_the_student_makes_badly_is_served_by_a_better_teacher(
    settings, student, student_right, teacher_right, name
):
    settings.QUALITY_FLOOR = 0.5
    assert served_at(student_right, teacher_right) == name
    variant = Serving.now().annotated(PromptVariant.objects.filter(slug="red-vase")).get()
    found = Serving.now().release(variant)
    assert found is not None and found.name == name  # lists show the same
    assert served_by("student", "red-vase") == "s"  # a request that names a kind gets it
    assert served_by(None, "blue-bowl") == "s"


@pytest.mark.parametrize(
    ("of_variant", "of_release", "setting", "name"),
    [
        (None, None, 0.5, "s"),
        (None, 0.8, 0.0, "t"),
        (None, 0.8, 0.5, "t"),
        (None, 0.0, 0.8, "s"),
        (0.8, None, 0.0, "t"),
        (0.8, 0.5, 0.5, "t"),
        (0.5, 0.8, 0.8, "s"),
        (0.0, 0.8, 0.8, "s"),
    ],
)
def test_the_floor_is_the_variants_else_the_releases_else_the_settings(
    settings, student, of_variant, of_release, setting, name
):
    """The student makes three of four pictures right."""
    settings.QUALITY_FLOOR = setting
    PromptVariant.objects.filter(slug="red-vase").update(quality_floor=of_variant)
    Release.objects.filter(name="s").update(quality_floor=of_release)
    make_quality(student, "blue bowl", 4)
    assert served_at(3, 4) == name
    assert listed("red-vase") == name
    assert served_by(None, "blue-bowl") == listed("blue-bowl") == "s"


def test_the_floor_is_that_of_the_student_that_makes_the_prompt_best(settings, student, specialist):
    make_quality(student, "red vase", 2)
    make_quality(specialist, "red vase", 3)
    Release.objects.filter(name="s").update(quality_floor=1.0)
    assert (served_by(None, "red-vase"), listed("red-vase")) == ("v", "v")
    Release.objects.filter(name="v").update(quality_floor=0.8)
    assert (served_by(None, "red-vase"), listed("red-vase")) == ("t", "t")


def test_a_canary_has_its_own_floor(canary):
    make_quality(canary, "red vase", 3)
    keys = [str(key) for key in range(50)]
    assert {served_by(None, "red-vase", key) for key in keys} == {"active", "canary"}
    Release.objects.filter(name="canary").update(quality_floor=0.8)
    assert {served_by(None, "red-vase", key) for key in keys} == {"active"}


def test_quality_decides_nothing_without_a_floor_or_with_few_pictures(settings, student):
    make_quality(student, "red vase", 0, 4)
    assert served_by(None, "red-vase") == "s"
    settings.QUALITY_FLOOR = 0.5
    assert served_by(None, "red-vase") == "t"
    student.qualities.update(evaluated=0, judged=3)
    assert served_by(None, "red-vase") == "s"
    student.qualities.update(evaluated=1, judged=3)
    assert served_by(None, "red-vase") == "t"


def test_a_weak_prompt_stays_with_the_student_while_the_teacher_has_no_embedding_of_it(
    settings, student
):
    settings.QUALITY_FLOOR = 0.5
    Release.objects.filter(name="t").update(encoder_fingerprint="f" * 64)
    assert served_at(0, 4) == "s"


def test_a_canary_serves_no_prompt_that_it_makes_badly(settings, canary):
    settings.QUALITY_FLOOR = 0.5
    make_quality(canary, "red vase", 1)
    assert {served_by(None, "red-vase", str(key)) for key in range(50)} == {"active"}
    assert {served_by(None, "blue-bowl", str(key)) for key in range(50)} == {"active", "canary"}


def test_the_quality_is_of_the_current_text(settings, student):
    settings.QUALITY_FLOOR = 0.5
    make_quality(student, "red vase", 0)
    cover(student, {"red-vase": ""})
    rewrite("red-vase", "a big red vase")
    assert served_by(None, "red-vase") == "s"


def test_finding_and_choosing_is_one_query(settings, student, django_assert_num_queries):
    settings.QUALITY_FLOOR = 0.5
    make_quality(student, "red vase", 0)
    with django_assert_num_queries(1):
        assert served_by(None, "red-vase") == "t"


# --- specialists ----------------------------------------------------------------------------------
@pytest.fixture
def specialist(student: Release) -> Release:
    return make_release(name="v", status="specialist", covered_variants=["red-vase"])


@pytest.mark.parametrize(
    ("of_student", "of_specialist", "name"),
    [
        (2, 3, "v"),
        (3, 3, "s"),
        (3, 2, "s"),
        (None, None, "s"),
        (2, None, "s"),
        (None, 4, "s"),
    ],
)
@pytest.mark.parametrize("model", [None, "student"])
def test_of_two_students_the_one_with_the_better_quality_serves(
    student, specialist, of_student, of_specialist, name, model
):
    for release, right in ((student, of_student), (specialist, of_specialist)):
        if right is not None:
            make_quality(release, "red vase", right)
    assert served_by(model, "red-vase") == name
    assert listed("red-vase") == name
    assert served_by(model, "blue-bowl") == "s"


def listed(slug: str) -> str | None:
    """Return the serving release of the variant by the list of the catalogue."""
    serving = Serving.now()
    found = serving.release(serving.annotated(PromptVariant.objects.filter(slug=slug)).get())
    return found and found.name


def test_a_specialist_serves_what_the_student_does_not_cover(student, specialist):
    cover(student, {"blue-bowl": ""})
    assert (served_by(None, "red-vase"), listed("red-vase")) == ("v", "v")
    assert served_by("teacher", "red-vase") == "t"


def test_the_best_of_several_specialists_serves(student, specialist):
    other = make_release(name="w", status="specialist", covered_variants=["red-vase"])
    for release, right in ((student, 1), (specialist, 2), (other, 3)):
        make_quality(release, "red vase", right)
    assert (served_by(None, "red-vase"), listed("red-vase")) == ("w", "w")
    rewrite("red-vase", "a big red vase")
    make_quality(specialist, "a big red vase", 4)
    assert (served_by(None, "red-vase"), listed("red-vase")) == ("v", "v")


@pytest.mark.parametrize(("of_teacher", "name"), [(4, "t"), (1, "v"), (None, "t")])
def test_where_no_student_reaches_the_floor_the_teacher_serves(
    settings, student, specialist, of_teacher, name
):
    settings.QUALITY_FLOOR = 0.8
    make_quality(student, "red vase", 1)
    make_quality(specialist, "red vase", 2)
    if of_teacher is not None:
        make_quality(Release.objects.get(name="t"), "red vase", of_teacher)
    assert (served_by(None, "red-vase"), listed("red-vase")) == (name, name)


def test_a_specialist_without_an_embedding_of_the_text_serves_nothing(student, specialist):
    make_quality(student, "red vase", 1)
    make_quality(specialist, "red vase", 4)
    Release.objects.filter(name="v").update(encoder_fingerprint="f" * 64)
    assert served_by(None, "red-vase") == "s"


def test_a_canary_serves_nothing_that_a_specialist_serves(canary):
    make_quality(Release.objects.get(name="active"), "red vase", 1)
    specialist = make_release(name="v", status="specialist", covered_variants=["red-vase"])
    make_quality(specialist, "red vase", 4)
    assert {served_by(None, "red-vase", str(key)) for key in range(50)} == {"v"}
    assert {served_by(None, "blue-bowl", str(key)) for key in range(50)} == {"active", "canary"}


def test_with_specialists_choosing_is_one_query(student, specialist, django_assert_num_queries):
    make_quality(student, "red vase", 1)
    make_quality(specialist, "red vase", 4)
    with django_assert_num_queries(1):
        assert served_by(None, "red-vase") == "v"


# --- a canary -----------------------------------------------------------------------------------
@pytest.fixture
def canary() -> Release:
    make_release(name="active")
    canary = make_release(name="canary")
    canary.canary_percent = 20
    canary.save()
    return canary


def test_a_canary_gets_its_share_and_the_same_request_always_the_same_release(canary):
    keys = [f"red-vase {seed}" for seed in range(2000)]
    found = routing.find(None, slug="red-vase")
    assert found is not None

    names = [routing.choose(None, *found, sampling_key=key).release.name for key in keys]

    assert 330 < Counter(names)["canary"] < 470  # of 2,000, at 20 %
    assert names[:50] == [served_by(None, "red-vase", key) for key in keys[:50]]


def test_a_request_that_names_a_release_gets_that_one(canary):
    assert {served_by("active", "red-vase", str(key)) for key in range(100)} == {"active"}


def test_a_canary_serves_a_share_of_its_own_kind_only(canary):
    make_release(name="t", kind="teacher")

    assert {served_by("student", "red-vase", str(key)) for key in range(50)} == {"active", "canary"}
    assert {served_by("teacher", "red-vase", str(key)) for key in range(50)} == {"t"}


def test_a_canary_serves_only_what_it_covers(canary):
    cover(canary, {"blue-bowl": ""})

    assert {served_by(None, "red-vase", str(key)) for key in range(100)} == {"active"}
