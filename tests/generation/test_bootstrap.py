"""`manage.py bootstrap`: everything once, nothing twice, and no tensors."""

import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from django.contrib.auth import authenticate, get_user_model
from django.core.management import CommandError, call_command
from django.utils import timezone

from generation.models import APIKey, PromptVariant, Release

ROOT = Path(__file__).resolve().parents[2]
KEY = "rt_0123abcd_secret-of-this-test"

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]


@pytest.fixture(autouse=True)
def local_key(settings) -> None:
    settings.LOCAL_API_KEY = KEY


def bootstrap() -> dict:
    out = StringIO()
    call_command("bootstrap", "--json", stdout=out, stderr=StringIO())
    return json.loads(out.getvalue())


def test_an_empty_database_is_made_ready() -> None:
    done = bootstrap()
    assert authenticate(username="admin", password=done["admin_password"]).is_superuser
    assert Release.objects.get(status="active").name == done["release"]
    assert PromptVariant.objects.filter(status="active").count() == done["imported_variants"] > 0
    key = APIKey.objects.get()
    assert key.matches(KEY)
    assert set(key.scopes) == set(APIKey.Scope.values)


def test_a_second_time_changes_nothing() -> None:
    first = bootstrap()
    again = bootstrap()
    assert again == first | {"admin_password": None, "imported_variants": 0, "made_api_key": False}
    assert get_user_model().objects.count() == 1
    assert Release.objects.count() == 1


def test_what_an_operator_decided_stays() -> None:
    bootstrap()
    Release.objects.update(status="retired")
    PromptVariant.objects.exclude(pk=PromptVariant.objects.first().pk).delete()
    bootstrap()
    assert Release.objects.get().status == "retired"
    assert PromptVariant.objects.count() == 1


def test_a_revoked_key_is_said_and_not_revived() -> None:
    bootstrap()
    APIKey.objects.update(revoked_at=timezone.now())
    with pytest.raises(CommandError, match="revoked"):
        bootstrap()


def test_it_loads_no_torch() -> None:
    code = (
        "import sys, django; django.setup(); import generation.management.commands.bootstrap;"
        "sys.exit('torch' in sys.modules)"
    )
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "project.settings"}
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment).returncode == 0
