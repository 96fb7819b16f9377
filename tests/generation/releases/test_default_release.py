"""The catalogue lists the same release for a variant as a request without a model gets."""

import pytest

from generation.errors import GenerationError
from generation.jobs import routing
from generation.models import PromptVariant, Release
from generation.releases.default_release import Serving
from tests.factories import make_embedding, make_release, make_variant

pytestmark = pytest.mark.django_db

SLUGS = ["both", "changed", "new"]


def served(slug: str) -> str | None:
    try:
        return routing.resolve(None, slug=slug).release.name
    except GenerationError:
        return None


@pytest.mark.parametrize("uncovered", ["teacher", "student", "refuse"])
@pytest.mark.parametrize("active", [(), ("student",), ("teacher",), ("student", "teacher")])
@pytest.mark.parametrize("teacher_covers", [(), ("both",)])  # (): the whole catalogue
@pytest.mark.parametrize("beside", [(), ("new",)])  # covered by a specialist
def test_the_default_release_is_the_one_that_serves_a_request_without_a_model(
    settings, uncovered, active, teacher_covers, beside
):
    settings.UNCOVERED = uncovered
    for slug in SLUGS:
        make_embedding(variant=make_variant(slug=slug))
    make_release(name="s", covered_variants=["both", "changed"])
    make_release(name="t", kind="teacher", covered_variants=teacher_covers)
    Release.objects.get(name="s").coverage.filter(slug="changed").update(normalized_text="other")
    Release.objects.exclude(kind__in=active).update(status="retired")
    if beside:
        make_release(name="v", status="specialist", covered_variants=beside)
    serving = Serving.now()
    rows = serving.annotated(PromptVariant.objects.order_by("slug"))
    found = {row.slug: serving.release(row) for row in rows}
    assert {slug: row and row.name for slug, row in found.items()} == {
        slug: served(slug) for slug in SLUGS
    }
    covered = [*(["both"] if "student" in active else []), *beside]
    assert [row.slug for row in rows if row.is_covered] == covered
