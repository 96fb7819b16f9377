"""Standing of prompt variants: each active one is covered, waiting or failing; some are weak."""

import pytest

from generation.catalogue.standing import Overview, Standing
from generation.models import PromptVariant, Release
from tests.factories import cover, make_embedding, make_quality, make_release, make_variant

pytestmark = pytest.mark.django_db


@pytest.fixture
def student() -> Release:
    """A student of "good", "weak" and of an older text of "changed"; a teacher for the rest, and a failed encoding."""
    student = make_release(name="s")
    make_release(name="t", kind="teacher")
    for slug in ("good", "weak", "changed", "new", "broken"):
        error = "It has 99 tokens." if slug == "broken" else ""
        make_embedding(variant=make_variant(slug=slug), error=error)
    make_variant(slug="old", status="archived")
    cover(student, {"good": "good", "weak": "weak", "changed": "another text"})
    make_quality(student, "good", 4)
    make_quality(student, "weak", 1)
    return student


def slugs_of(standing: str) -> set[str]:
    overview = Overview.now()
    rows = overview.annotated(PromptVariant.objects.all()).filter(overview.condition(standing))
    assert len(rows) == overview.counts[standing]
    return {row.slug for row in rows}


def test_every_active_variant_has_one_standing(student):
    assert slugs_of(Standing.COVERED) == {"good", "weak"}
    assert slugs_of(Standing.WAITING) == {"changed", "new"}
    assert slugs_of(Standing.FAILING) == {"broken"}
    assert slugs_of(Standing.WEAK) == {"weak"}
    assert Overview.now().counts[""] == 5


def test_a_variant_that_no_release_serves_is_failing(student, settings):
    settings.UNCOVERED = "refuse"
    assert slugs_of(Standing.FAILING) == {"broken", "changed", "new"}
    assert slugs_of(Standing.WAITING) == set()


def test_each_variant_has_the_reason_for_its_serving_release(student, settings):
    settings.QUALITY_FLOOR = 0.5
    overview = Overview.now()
    reasons = {
        row.slug: overview.reason(row) for row in overview.annotated(PromptVariant.objects.all())
    }
    assert reasons["good"] == "It was made for this text."
    assert reasons["weak"] == "25% of the pictures by s are right."
    assert reasons["changed"] == "Its text changed after s was made."
    assert reasons["new"] == "s was not made for this text."
    settings.UNCOVERED, settings.QUALITY_FLOOR = "refuse", 0.0
    overview = Overview.now()
    (row,) = overview.annotated(PromptVariant.objects.filter(slug="new"))
    assert overview.reason(row) == "Refused: s was not made for this text."
    Release.objects.update(status="retired")
    overview = Overview.now()
    (row,) = overview.annotated(PromptVariant.objects.filter(slug="new"))
    assert (overview.reason(row), overview.counts["failing"]) == ("No release is active.", 5)
