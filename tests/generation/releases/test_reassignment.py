"""Prompt variants that another release serves when a release begins or ends its service."""

import pytest

from generation.releases import reassignment
from generation.releases.default_release import Serving
from tests.factories import make_quality, make_release, make_variant

pytestmark = pytest.mark.django_db

SLUGS = ["bowl", "jug", "mug", "vase"]


@pytest.fixture
def main(settings):
    settings.UNCOVERED = "refuse"
    for slug in SLUGS:
        make_variant(slug=slug)
    return make_release(name="main", covered_variants=SLUGS)


def moved(before: Serving, after: Serving) -> dict[str, tuple[str | None, str | None]]:
    return {
        slug: (move.before and move.before.name, move.after and move.after.name)
        for move in reassignment.moves(before, after)
        for slug in move.slugs
    }


def test_prompts_of_a_specialist_are_not_listed_as_lost(main):
    make_release(name="vases", status="specialist", covered_variants=["vase", "jug"])
    new = make_release(name="new", status="candidate", covered_variants=["bowl"])
    now = Serving.now()
    assert moved(now, reassignment.activated(now, new)) == {
        "bowl": ("main", "new"),
        "mug": ("main", None),
        "vase": ("main", "vases"),
        "jug": ("main", "vases"),
    }


def test_a_specialist_takes_the_prompts_it_makes_better_and_returns_them(main):
    vases = make_release(name="vases", status="candidate", covered_variants=["vase", "jug"])
    make_quality(main, "vase", 2)
    make_quality(vases, "vase", 4)
    now = Serving.now()
    with_vases = reassignment.beside(now, vases)
    assert moved(now, with_vases) == {"vase": ("main", "vases")}
    assert moved(with_vases, reassignment.retired(with_vases, vases)) == {"vase": ("vases", "main")}


def test_a_specialist_that_becomes_the_active_student_leaves_no_second_one(main):
    vases = make_release(name="vases", status="specialist", covered_variants=["vase"])
    now = Serving.now()
    after = reassignment.activated(now, vases)
    assert after.students == (vases,)
    assert moved(now, after)["vase"] == ("main", "vases")


def test_prompts_served_by_a_student_without_coverage_are_listed_separately(main, settings):
    settings.UNCOVERED = "student"
    new = make_release(name="new", status="candidate", covered_variants=["bowl"])
    now = Serving.now()
    uncovered, covered = reassignment.moves(now, reassignment.activated(now, new))
    assert (uncovered.slugs, covered.slugs) == (("jug", "mug", "vase"), ("bowl",))
    assert "new, which was not made for them, so that the pictures may be poor: jug" in str(
        uncovered
    )
    assert str(covered) == "1 prompt variant will change from main to new: bowl."


def test_no_more_than_three_prompts_are_named(main):
    make_variant(slug="zinnia")
    new = make_release(name="new", status="candidate", covered_variants=[*SLUGS, "zinnia"])
    now = Serving.now()
    (first, second) = reassignment.moves(now, reassignment.activated(now, new))
    assert (
        str(first) == "4 prompt variants will change from main to new: bowl, jug, mug and 1 more."
    )
    assert str(second) == "1 prompt variant without a release will be served by new: zinnia."
