"""`manage.py bootstrap`: idempotent, and without torch."""

import json
import os
import shutil
import subprocess
import sys
import threading
import uuid
from io import StringIO
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2
import pytest
from django.contrib.auth import authenticate, get_user_model
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from generation.errors import VariantNotEncoded
from generation.jobs import submission
from generation.jobs.job_request import JobRequest
from generation.management.commands import bootstrap as command
from generation.models import APIKey, PromptVariant, Quality, Release
from tests import tiny
from tests.generation.students import make_bundle
from tests.web import database_url

ROOT = Path(__file__).resolve().parents[3]
KEY = "rt_0123abcd_secret-of-this-test"

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]


@pytest.fixture(autouse=True)
def local_key(settings) -> None:
    settings.LOCAL_API_KEY = KEY


def bootstrap() -> dict:
    out = StringIO()
    call_command("bootstrap", "--json", stdout=out, stderr=StringIO())
    return json.loads(out.getvalue())


def test_an_empty_database_is_prepared() -> None:
    done = bootstrap()
    assert authenticate(username="admin", password=done["admin_password"]).is_superuser
    active = Release.objects.filter(status="active").values_list("name", flat=True)
    assert set(active) == set(done["releases"])
    assert "starter-teacher-2" in active
    assert PromptVariant.objects.filter(status="active").count() == done["imported_variants"] > 0
    assert done["evaluated_texts"] == Quality.objects.filter(evaluated=4).count() == 2 * 256
    key = APIKey.objects.get()
    assert key.matches(KEY)
    assert set(key.scopes) == set(APIKey.Scope.values)


def test_a_second_bootstrap_changes_nothing() -> None:
    first = bootstrap()
    again = bootstrap()
    assert again == first | {
        "admin_password": None,
        "imported_variants": 0,
        "made_groups": [],
        "evaluated_texts": 0,
        "stored_embeddings": 0,
        "made_api_key": False,
    }
    assert get_user_model().objects.count() == 1
    assert Release.objects.count() == len(first["releases"])


def test_decisions_of_an_operator_are_kept() -> None:
    bootstrap()
    Release.objects.update(status="retired")
    PromptVariant.objects.exclude(pk=PromptVariant.objects.first().pk).delete()
    bootstrap()
    assert set(Release.objects.values_list("status", flat=True)) == {"retired"}
    assert PromptVariant.objects.count() == 1


@pytest.fixture
def shipped(tmp_path: Path, settings, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A starter of a teacher and a student at toy size, whose student covers two of three variants."""
    folder = settings.RELEASES_ROOT / "starter"
    folder.mkdir(parents=True)
    tiny.make_tiny_release(folder / "teacher-2", name="toy-teacher")
    prompts = {"red-vase": "a red vase", "blue-mug": "a blue mug"}
    make_bundle(folder / "student-3", folder / "teacher-2", prompts, name="toy-student")
    (folder / "catalogue.csv").write_text(
        "slug,text\nred-vase,a red vase\nblue-mug,a blue mug\nnew,a white cone\n"
    )
    monkeypatch.setattr(command, "STARTER", folder)
    return folder


def test_a_shipped_student_is_served_at_once_without_any_encoding(shipped: Path) -> None:
    done = bootstrap()
    assert (done["releases"], done["stored_embeddings"]) == (["toy-teacher", "toy-student"], 2)
    owner = get_user_model().objects.get()
    for slug in ("red-vase", "blue-mug"):
        assert submission.submit(owner, JobRequest(variant=slug)).release.name == "toy-student"
    with pytest.raises(VariantNotEncoded, match="toy-teacher"):  # a variant that it does not cover
        submission.submit(owner, JobRequest(variant="new"))
    assert bootstrap()["stored_embeddings"] == 0


def test_a_student_rolled_back_by_an_operator_stays_rolled_back(shipped: Path) -> None:
    bootstrap()
    Release.objects.filter(name="toy-student").update(status="retired")
    bootstrap()
    assert Release.objects.get(name="toy-student").status == "retired"


def test_an_included_release_removed_by_an_upgrade_is_replaced_by_the_current_one(
    shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bootstrap()
    new = shipped.parent / "starter-of-today"
    shutil.copytree(shipped, new)
    for folder, kind in zip(command.SHIPPED, ("teacher", "student"), strict=True):
        path = new / folder / "release.json"
        manifest = json.loads(path.read_text())
        path.write_text(json.dumps(manifest | {"name": f"toy-{kind}-of-today"}))
    monkeypatch.setattr(command, "STARTER", new)

    bootstrap()  # the earlier files are still there
    assert active() == {"toy-teacher", "toy-student"}
    Release.objects.filter(name="toy-student").update(path=f"{command.IN_STARTER}gone")
    bootstrap()
    assert active() == {"toy-teacher", "toy-student-of-today"}


def active() -> set[str]:
    return set(Release.objects.filter(status="active").values_list("name", flat=True))


def test_a_damaged_student_is_reported(shipped: Path) -> None:
    with (shipped / "student-3/prompt_embeds.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(CommandError, match="starter release is damaged"):
        bootstrap()


def test_a_revoked_key_is_reported_and_not_reactivated() -> None:
    bootstrap()
    APIKey.objects.update(revoked_at=timezone.now())
    with pytest.raises(CommandError, match="revoked"):
        bootstrap()


# --- upgrades while Retort serves ------------------------------------------------------------------
@pytest.mark.django_db(transaction=True)
def test_a_waiting_bootstrap_does_not_block_an_index_that_is_created_concurrently() -> None:
    seen = threading.Event()

    def wait() -> None:
        with command.exclusive():
            seen.set()

    waiting = threading.Thread(target=wait)
    with command.exclusive():
        waiting.start()
        assert not seen.wait(0.5)
        with connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = '60s'")
            cursor.execute("CREATE INDEX CONCURRENTLY of_this_test ON generation_job (seed)")
            cursor.execute("DROP INDEX of_this_test; RESET statement_timeout")
    waiting.join(60)
    assert seen.is_set()


@pytest.mark.django_db(transaction=True)
def test_migrations_are_run_again_while_a_long_transaction_holds_a_table(monkeypatch) -> None:
    monkeypatch.setattr(command, "PAUSE_SECONDS", 0)
    tries = []

    def migrate(*_, **__) -> None:
        tries.append(True)
        if len(tries) < 3:
            with connection.cursor() as cursor:  # the error as PostgreSQL reports it
                cursor.execute("DO $$ BEGIN RAISE lock_not_available; END $$")

    monkeypatch.setattr(command, "call_command", migrate)
    command.Command(stderr=StringIO()).run_migrations()
    assert len(tries) == 3


def test_an_interrupted_restoration_is_reported_and_nothing_is_created() -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA before_restore")
    with pytest.raises(CommandError, match=r"was interrupted\. Wait for its end, or repeat it"):
        call_command("bootstrap")


def test_a_database_account_that_may_not_create_tables_is_reported(db) -> None:
    facts = urlsplit(database_url())
    name = f"of_this_test_{uuid.uuid4().hex[:12]}"
    server = psycopg2.connect(database_url())
    server.autocommit = True
    with server.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x'")
        cursor.execute(f"CREATE DATABASE {name}")
    try:
        done = subprocess.run(
            [sys.executable, "manage.py", "bootstrap"],
            cwd=ROOT,
            env={
                **os.environ,
                "DATABASE_URL": f"postgres://{name}:x@{facts.hostname}:{facts.port}/{name}",
            },
            capture_output=True,
            text=True,
        )
    finally:
        with server.cursor() as cursor:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
            cursor.execute(f"DROP ROLE {name}")
        server.close()
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "permission denied for schema public" in done.stderr
    assert "account that owns it" in done.stderr.splitlines()[-1]
