"""SQL statements with settings."""

import pytest
from django.db import connection

from generation.infra.compiled import Compiled
from generation.infra.prepared import Statement
from generation.models import PromptVariant
from tests.people import make_variant
from tests.threads import in_threads

SETTING = Statement(
    "SELECT current_setting('work_mem')", settings="SET LOCAL work_mem TO '1234kB';"
)


@pytest.mark.django_db(transaction=True)
def test_settings_hold_for_the_call_alone():
    with connection.cursor() as cursor:
        cursor.execute(SETTING.call())
        assert cursor.fetchone() == ("1234kB",)

    with connection.cursor() as cursor:
        cursor.execute("SHOW work_mem")
        assert cursor.fetchone() != ("1234kB",)


@pytest.mark.django_db(transaction=True)
def test_threads_that_meet_a_new_queryset_all_get_its_rows():
    make_variant(slug="mug", text="a mug")
    by_slug = Compiled(lambda slug: PromptVariant.objects.filter(slug=slug), slug="?slug")
    found: list[str] = []

    def ask() -> None:
        for _ in range(5):
            found.extend(variant.slug for variant in by_slug.all(slug="mug"))

    in_threads(ask, count=6)

    assert found == ["mug"] * 30
