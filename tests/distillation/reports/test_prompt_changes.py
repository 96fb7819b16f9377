"""What a release would change, prompt by prompt, as routing would decide."""

import pytest

from distillation.reports import prompt_changes
from generation.jobs import routing
from generation.models import Release
from tests.factories import make_embedding, make_quality, make_release, make_variant

pytestmark = pytest.mark.django_db

SLUGS = ["blue-bowl", "green-mug", "red-vase"]


@pytest.fixture
def main() -> Release:
    """The active student, with shares of 4, 1 and 2 in 4 at the prompts; a teacher beside it."""
    for slug in SLUGS:
        make_embedding(variant=make_variant(slug=slug))
    make_release(name="t", kind="teacher")
    main = make_release(name="main", covered_variants=SLUGS)
    for slug, right in zip(SLUGS, (4, 1, 2), strict=True):
        make_quality(main, slug.replace("-", " "), right)
    return main


def candidate(*counts: int | None, covers: list[str] = SLUGS) -> Release:
    release = make_release(name="new", status="candidate", covered_variants=covers)
    for slug, right in zip(SLUGS, counts, strict=True):
        if right is not None:
            make_quality(release, slug.replace("-", " "), right)
    return release


def rows(found: dict) -> list[tuple]:
    return [
        (row["slug"], *(tuple(row[side].values()) for side in ("before", "after")))
        for row in found["rows"]
    ]


def test_a_new_active_student_changes_prompts_of_other_shares_the_worst_first(main):
    found = prompt_changes.of(candidate(2, 1, 4), is_specialist=False)
    assert rows(found) == [
        ("blue-bowl", ("main", 4, 4), ("new", 2, 4)),
        ("red-vase", ("main", 2, 4), ("new", 4, 4)),
    ]
    assert (found["changed"], found["better"], found["worse"]) == (2, 1, 1)
    assert (
        "1 would improve, most of all red vase: main (2 of 4) → new (4 of 4); 1 would get worse"
        in (prompt_changes.sentences(found))
    )


def test_a_specialist_changes_only_prompts_that_it_improves_as_routing_does(main):
    release = candidate(2, 1, 4)
    found = prompt_changes.of(release, is_specialist=True)
    assert rows(found) == [("red-vase", ("main", 2, 4), ("new", 4, 4))]
    Release.objects.filter(pk=release.pk).update(status="specialist")
    served = {slug: routing.resolve(None, slug=slug).release.name for slug in SLUGS}
    assert served == {"blue-bowl": "main", "green-mug": "main", "red-vase": "new"}


def test_a_prompt_that_the_teacher_takes_over_or_leaves_is_a_change(main, settings):
    settings.QUALITY_FLOOR = 0.4
    found = prompt_changes.of(candidate(4, 3, 2), is_specialist=True)
    assert rows(found) == [("green-mug", ("t", 0, 0), ("new", 3, 4))]


def test_a_prompt_that_no_student_makes_well_is_hard_and_lists_what_was_tried(main):
    make_quality(make_release(name="old", status="retired"), "green mug", 0)
    found = prompt_changes.of(candidate(None, 1, 1, covers=SLUGS[1:]), is_specialist=True)
    assert (found["changed"], found["hard"]) == (0, 1)
    (hard,) = found["hard_rows"]
    tried = [(side["release"], side["right"], side["judged"]) for side in hard["tried"]]
    assert (hard["slug"], tried) == ("green-mug", [("main", 1, 4), ("new", 1, 4), ("old", 0, 4)])
    assert "1 prompt is hard" in prompt_changes.sentences(found)


def test_there_are_no_changes_without_measurements(main):
    main.qualities.all().delete()
    found = prompt_changes.of(candidate(None, None, None), is_specialist=False)
    assert (found["rows"], found["hard_rows"], prompt_changes.sentences(found)) == ([], [], "")
