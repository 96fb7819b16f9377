"""Fixtures of the catalogue."""

from pathlib import Path

import pytest
from django.conf import settings

from generation.engine.prompts import tokens
from tests.factories import make_release

STARTER = Path(settings.BASE_DIR) / "generation" / "starter" / "teacher-2"


@pytest.fixture
def encoder():
    """A release in use whose tokenizer is the real one of the starter."""
    release = make_release(name="with-encoder", has_encoder=True, path=str(STARTER))
    release.manifest["max_tokens"] = tokens.limit(STARTER)
    release.save()
    return release
