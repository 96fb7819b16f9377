"""System checks: contradicting settings prevent the start, with a hint."""

import os
import secrets
import subprocess
import sys
from uuid import uuid4

import pytest
from django.core.checks import run_checks

from tests.web import ROOT, database_url


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
        ({"SECRET_KEY": "short"}, "generation.E007"),
        ({"SECRET_KEY": "ab" * 40}, "generation.E007"),
        ({"SECRET_KEY": "django-insecure-" + "abcdefghijklmnop" * 3}, "generation.E007"),
        ({"QUALITY_FLOOR": 0.5, "UNCOVERED": "refuse"}, "generation.E008"),
        ({"QUALITY_FLOOR": 0.5, "UNCOVERED": "student"}, "generation.E008"),
        ({"LOGIN_HEADER": "Remote-User"}, "generation.E009"),
        ({"SWEEP_SECONDS": 25.0}, "generation.W001"),
    ],
)
def test_a_contradiction_is_found(settings, changed: dict, expected: str):
    for name, value in changed.items():
        setattr(settings, name, value)

    assert found() == {expected}


def test_a_key_generated_by_the_launcher_is_a_valid_local_key(settings):
    settings.LOCAL_API_KEY = "rt_local_" + "x" * 43

    assert found() == set()


def test_random_secret_keys_are_accepted(settings):
    for key in (secrets.token_urlsafe(50), secrets.token_hex(32), uuid4().hex * 2):
        settings.SECRET_KEY = key
        assert found() == set()


def test_a_weak_secret_key_is_for_debugging_only(settings):
    settings.SECRET_KEY, settings.DEBUG = "weak", True
    assert found() == set()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("words", [("worker", "-Q", "light", "-P", "solo"), ("beat", "--pidfile=")])
def test_workers_and_beat_refuse_the_settings_that_commands_refuse(words: tuple[str, ...]):
    started = subprocess.run(
        [sys.executable, "-m", "celery", "--quiet", "-A", "project", *words],
        env={**os.environ, "DATABASE_URL": database_url(), "LEASE_SECONDS": "1", "SWEEP_SECONDS": "1"},
        cwd=ROOT, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert started.returncode == 1
    assert "generation.E001" in started.stderr and "Give at least 2" in started.stderr


def test_the_web_process_refuses_the_settings_that_commands_refuse():
    environment = {**os.environ, "SECRET_KEY": "weak", "DJANGO_SETTINGS_MODULE": "project.settings"}
    started = subprocess.run(
        [sys.executable, "-c", "import project.asgi"],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert started.returncode == 1
    assert "generation.E007" in started.stderr and "token_urlsafe" in started.stderr
