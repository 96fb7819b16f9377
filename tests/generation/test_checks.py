"""System checks: contradicting settings prevent the start, with a hint."""

import pytest
from django.core.checks import run_checks


def found() -> set[str]:
    messages = [
        message for message in run_checks() if message.id and message.id.startswith("generation.")
    ]
    assert all(message.hint for message in messages)
    return {str(message.id) for message in messages}


def test_the_defaults_are_consistent():
    assert found() == set()


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"LEASE_SECONDS": 1.0, "SWEEP_SECONDS": 1.0}, "generation.E001"),
        ({"WORKER_STALE_SECONDS": 4.0}, "generation.E002"),
        ({"CELERY_TASK_DEFAULT_QUEUE": "lihgt"}, "generation.E004"),
        ({"LOCAL_API_KEY": "secret"}, "generation.E006"),
        ({"SWEEP_SECONDS": 25.0}, "generation.W001"),
    ],
)
def test_a_contradiction_is_found(settings, changed: dict, expected: str):
    for name, value in changed.items():
        setattr(settings, name, value)

    assert found() == {expected}


def test_a_key_made_by_our_own_code_is_a_good_local_key(settings):
    settings.LOCAL_API_KEY = "rt_local_" + "x" * 43

    assert found() == set()
