"""Limits of all sessions, kept on the database."""

import pytest
from django.db import connection

from generation.infra import session_limits
from tests.factories import make_variant

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def without_limits():
    yield
    connection.close()
    with connection.cursor() as cursor:
        name = connection.ops.quote_name(connection.settings_dict["NAME"])
        cursor.execute(f"ALTER DATABASE {name} RESET ALL")
    connection.close()


def shown(name: str) -> str:
    """Return the value in a new session."""
    connection.close()
    with connection.cursor() as cursor:
        cursor.execute(f"SHOW {name}")
        return cursor.fetchone()[0]


def test_new_sessions_have_the_limits_and_a_second_call_changes_nothing():
    assert set(session_limits.set_missing()) == set(session_limits.LIMITS)
    assert {name: shown(name) for name in session_limits.LIMITS} == session_limits.LIMITS
    assert session_limits.set_missing() == []


def test_limits_set_by_an_operator_are_kept():
    with connection.cursor() as cursor:
        name = connection.ops.quote_name(connection.settings_dict["NAME"])
        cursor.execute(f"ALTER DATABASE {name} SET statement_timeout = '10s'")

    session_limits.set_missing()
    session_limits.lift()

    assert shown("statement_timeout") == "10s"
    assert shown("lock_timeout") == "0"


def test_an_idle_transaction_releases_its_locks(monkeypatch):
    """For example that of a worker on a suspended host."""
    monkeypatch.setitem(session_limits.LIMITS, "idle_in_transaction_session_timeout", "200ms")
    session_limits.set_missing()
    variant = make_variant()
    sleeper = connection.copy()
    sleeper.set_autocommit(False)
    with sleeper.cursor() as cursor:
        cursor.execute(
            "SELECT 1 FROM generation_promptvariant WHERE id = %s FOR UPDATE", [variant.pk]
        )
    try:
        type(variant).objects.filter(pk=variant.pk).update(notes="changed")  # waits for the lock
    finally:
        sleeper.close()
