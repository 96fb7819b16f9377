"""Statements whose plan PostgreSQL keeps."""

import pytest
from django.db import connection, transaction
from django.db.utils import ProgrammingError

from generation.infra.compiled import Compiled
from generation.infra.prepared import Statement
from generation.models import PromptVariant
from tests.people import make_variant
from tests.threads import in_threads

ADD = Statement("SELECT %(left)s::int + %(right)s::int, %(left)s::int, '100 %%'")
SETTING = Statement(
    "SELECT current_setting('work_mem')", settings="SET LOCAL work_mem TO '1234kB';"
)


def asked(statement: Statement, **values: object):
    with connection.cursor() as cursor:
        cursor.execute(statement.call(), values)
        return cursor.fetchone()


def prepared() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'retort%'")
        return cursor.fetchone()[0]


@pytest.mark.django_db
def test_values_take_the_place_of_their_names():
    assert asked(ADD, left=1, right=2) == (3, 1, "100 %")
    assert asked(ADD, right=5, left=4) == (9, 4, "100 %")


@pytest.mark.django_db
def test_a_plan_is_made_once_for_a_connection(django_assert_num_queries):
    asked(ADD, left=1, right=2)
    count = prepared()

    with django_assert_num_queries(1):
        asked(ADD, left=1, right=2)
    assert prepared() == count


@pytest.mark.django_db(transaction=True)
def test_a_new_connection_makes_its_own():
    asked(ADD, left=1, right=2)
    connection.close()

    assert asked(ADD, left=1, right=2)[0] == 3


@pytest.mark.django_db(transaction=True)
def test_a_plan_outlives_the_transaction_that_made_it():
    connection.close()
    with transaction.atomic():
        asked(ADD, left=1, right=2)
        transaction.set_rollback(True)

    assert asked(ADD, left=1, right=2)[0] == 3


@pytest.mark.django_db(transaction=True)
def test_settings_hold_for_the_call_alone():
    assert asked(SETTING) == ("1234kB",)

    with connection.cursor() as cursor:
        cursor.execute("SHOW work_mem")
        assert cursor.fetchone() != ("1234kB",)


@pytest.mark.django_db(transaction=True)
def test_a_mistake_is_an_error_of_django():
    with pytest.raises(ProgrammingError, match="nowhere"):
        asked(Statement("SELECT * FROM nowhere"))


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
