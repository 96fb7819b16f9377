"""Two versions side by side: the code of a release keeps working on the schema of the next one."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from django.db import connection
from django.db.migrations.loader import MigrationLoader

from distillation.models import Run, Slice
from distillation.runs import lifecycle as runs
from generation.access import keys
from generation.catalogue import variants
from generation.jobs import erasure, retention
from generation.jobs import lifecycle as jobs
from generation.jobs.rescue import rescue
from generation.models import (
    APIKey,
    Attempt,
    AuditEntry,
    Delivery,
    IdempotencyKey,
    Image,
    Job,
    PromptVariant,
    PurgedImage,
    Usage,
    Worker,
)
from generation.webhooks import outbox, payload
from generation.webhooks.outbox import Shares
from generation.webhooks.sender import Answer
from tests import fake_worker, previous_release
from tests.client import API, problem
from tests.conftest import PERMANENT_TABLES
from tests.distillation.factories import make_run
from tests.factories import DEFAULT_TEXT, make_embedding, make_release, make_user, make_worker
from tests.web import database_url

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]


ROOT = Path(__file__).resolve().parents[1]
# The last migrations from before the rules, which are not checked.
BEFORE_THE_RULES = {"generation": "0012", "distillation": "0007"}


# --- columns that are unknown to the code ----------------------------------------------------------
@pytest.fixture
def next_schema(db) -> None:
    """Add columns to every table, as a migration of the next release may: one is required and has a default."""
    with connection.cursor() as cursor:
        for table in set(connection.introspection.table_names()) - PERMANENT_TABLES:
            cursor.execute(
                f"ALTER TABLE {connection.ops.quote_name(table)}"
                " ADD COLUMN of_the_next_release integer NOT NULL DEFAULT 7,"
                " ADD COLUMN also_of_the_next_release text"
            )


def values(model: type) -> set[int]:
    """Return the values of a model's rows in the column that is unknown to its code."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT of_the_next_release FROM {model._meta.db_table}")
        return {row[0] for row in cursor.fetchall()}


@pytest.mark.slow
def test_jobs_run_while_every_table_has_an_additional_column(next_schema):
    make_embedding(encoder_fingerprint=make_release().encoder_fingerprint)
    api = API(images_per_day=1000, device_seconds_per_day=1000, max_queued_jobs=100)
    hook = {"webhook": "https://example.org/hook", "webhook_events": ["start", "completed"]}
    wanted = {"variant": "red-glass-vase", "seed": 5, "n": 2}

    first = api.post("/v1/jobs", wanted | hook, headers={"Idempotency-Key": "a"})
    twin = api.post("/v1/jobs", wanted)
    assert (first.status_code, twin.status_code) == (202, 202), (first.content, twin.content)
    fake_worker.make_pictures()
    hit = api.post("/v1/jobs", wanted).json()
    prompt = {"prompt": DEFAULT_TEXT}
    assert api.post("/v1/images/generations", prompt).status_code == 503  # accepted; no shell waits
    assert api.post("/v1/predictions", {"input": prompt}).status_code == 202
    fake_worker.fail()
    canceled = api.post("/v1/jobs", {"variant": "red-glass-vase"}).json()["id"]
    assert api.post(f"/v1/jobs/{canceled}/cancel").status_code == 200
    lost = api.post("/v1/jobs", {"variant": "red-glass-vase"}).json()["id"]
    assert jobs.claim("worker-2").jobs
    Job.objects.filter(id=lost).update(lease_expires_at="2020-01-01T00:00Z")
    rescue()
    fake_worker.make_pictures()

    assert hit["cache"] == "hit"
    for job in (first, twin):
        read = api.get(f"/v1/jobs/{job.json()['id']}").json()
        assert (read["status"], len(read["images"])) == ("succeeded", 2)
    assert api.get(f"/v1/jobs/{lost}").json()["status"] == "succeeded"
    assert api.delete(f"/v1/jobs/{lost}").status_code == 204
    taken, _ = outbox.take(Shares())
    payload.render(taken)
    outbox.note([(delivery, Answer(200)) for delivery in taken])
    assert taken and not Delivery.objects.filter(status="pending").exists()
    for model in (APIKey, Attempt, Delivery, IdempotencyKey, Image, Job, PurgedImage, Usage):
        assert values(model) == {7}, model


def test_workers_texts_and_runs_work_while_every_table_has_an_additional_column(next_schema):
    variants.save(PromptVariant(slug="vase", text="a red vase", status="active"))
    make_embedding(encoder_fingerprint=make_release().encoder_fingerprint)
    make_worker()
    keys.issue(make_user(), "test", ["jobs:read"])
    made = make_run()
    run, hold = runs.claim("worker-1")
    assert run.pk == made.pk and runs.note(hold, stage="structure", percent=40.0)
    renewed = runs.renew(hold)
    assert runs.finish(renewed, outcome=Run.Outcome.CANDIDATE)

    for model in (AuditEntry, PromptVariant, Run, Slice, Worker):
        assert values(model) == {7}, model


def test_every_insert_names_its_columns():
    sources = [*ROOT.glob("generation/**/*.py"), *ROOT.glob("distillation/**/*.py")]
    inserts = [
        (source.name, found[0])
        for source in sources
        if "migrations" not in source.parts
        for found in re.finditer(r"INSERT INTO \w+\s*.", source.read_text("utf-8"))
    ]
    assert len(inserts) >= 3
    assert [found for found in inserts if not found[1].endswith("(")] == []


# --- the previous release, on this schema -------------------------------------------------------------
OLD = """
import django, json, sys
django.setup()
from django.utils import timezone
from generation.access import keys
from generation.infra import heartbeat
from generation.jobs import lifecycle as jobs, retention
from generation.models import APIKey, Image, Job
from distillation.runs import lifecycle as runs
from tests import painter
from tests.client import API, problem
from tests.distillation.people import make_run

heartbeat.begin("generation", device="cpu")
painter.make_pictures()  # a job that the new code accepted
key = APIKey.objects.get()
api = API(owner=key.owner, images_per_day=100, device_seconds_per_day=100)
body = {"variant": "red-glass-vase"}
hook = {"webhook": "https://example.org/hook", "webhook_events": ["start", "completed"]}
def post(**more):
    key = {"Idempotency-Key": f"key-{Job.objects.count()}"}
    answer = api.post("/v1/jobs", body | more, headers=key)
    assert answer.status_code in (200, 202), answer.content
    return answer.json()["id"]
done = post(seed=5, n=2, **hook)
painter.make_pictures()
hit = post(seed=5, n=2)
failed = post()
painter.fail()
deleted = post()
assert api.delete(f"/v1/jobs/{deleted}").status_code == 204
taken = post(seed=9)
assert [str(job.id) for job in jobs.claim("old-worker").jobs] == [taken]
waiting = post()
made = make_run()
run, hold = runs.claim("old-worker")
assert runs.finish(runs.renew(hold, stage="joint"), outcome="candidate")
heartbeat.end()
print(json.dumps(dict(done=done, hit=hit, failed=failed, deleted=deleted, waiting=waiting, taken=taken)))
"""


@pytest.fixture(scope="module")
def old_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the code of the previous release."""
    folder = tmp_path_factory.mktemp("release-before")
    return previous_release.extract(folder, without=("generation/starter", "distillation/starter"))


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_the_previous_release_works_on_this_schema_beside_this_one(old_code: Path, settings):
    make_embedding(encoder_fingerprint=make_release().encoder_fingerprint)
    api = API()
    accepted = api.post("/v1/jobs", {"variant": "red-glass-vase"}).json()["id"]
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "DATABASE_URL": database_url(),
        "REDIS_URL": settings.REDIS_URL,
        "DATA_DIR": str(settings.DATA_DIR),
        "SECRET_KEY": settings.SECRET_KEY,
        "ALLOWED_HOSTS": "*",
        "PYTHONPATH": "",
    }

    old = subprocess.run(
        [sys.executable, "-c", OLD], cwd=old_code, env=environment, capture_output=True, text=True
    )

    assert old.returncode == 0, old.stderr[-3000:]
    ids = json.loads(old.stdout.splitlines()[-1])
    Job.objects.filter(id=ids["taken"]).update(lease_expires_at="2020-01-01T00:00Z")
    rescue()  # jobs left by a worker of the previous release
    Job.objects.update(not_before=None)
    while claimed := jobs.claim("new-worker").jobs:  # a lost job runs alone
        assert fake_worker.finish(claimed) == []
    for job_id in (accepted, ids["done"], ids["hit"], ids["waiting"], ids["taken"]):
        job = api.get(f"/v1/jobs/{job_id}").json()
        assert (job["status"], len(job["images"])) == ("succeeded", job["n"]), job
        assert api._client.get(job["images"][0]["url"]).status_code == 200
    assert api.get(f"/v1/jobs/{ids['failed']}").json()["status"] == "failed"
    problem(api.get(f"/v1/jobs/{ids['deleted']}"), 410, "job_purged")
    assert Run.objects.get().outcome == "candidate"
    retention.sweep()  # erases what the previous release left
    assert erasure.leftovers() == []


# --- migrations -----------------------------------------------------------------------------------
def violations(sql: list[str]) -> list[str]:
    """Return the statements of a migration that break the previous release or block it."""
    new = {found[1] for line in sql if (found := re.match(r'CREATE TABLE "(\w+)"', line))}
    changes = [line for line in sql if not line.startswith("--")]
    changes = [line for line in changes if not any(f'"{table}"' in line for table in new)]
    altering = [line for line in changes if line.startswith(("ALTER TABLE", "UPDATE"))]
    found = []
    # A foreign key locks the table that it refers to, also that of a new table.
    targets = {found[1] for line in sql for found in re.finditer(r'REFERENCES "(\w+)"', line)}
    first = next((line for line in sql if not line.startswith("--")), "")
    if (altering or targets - new) and "SET LOCAL lock_timeout" not in first:
        found.append("begin with lock_timeout of generation.migrations._locks")
    for line in changes:
        for pattern, remedy in (
            (r"(CREATE|DROP)( UNIQUE)? INDEX (?!CONCURRENTLY)", "make the index concurrently"),
            (r"ADD COLUMN (?!.*DEFAULT).*NOT NULL", "give the column a db_default"),
            (r"ALTER COLUMN .* DROP DEFAULT", "give the column a db_default"),
            (r"ALTER COLUMN .* (TYPE|SET NOT NULL)", "add a new column instead"),
            (r"DROP (COLUMN|TABLE)|RENAME", "old code uses it: remove it a release later"),
            (
                r"ADD CONSTRAINT (?!.*NOT VALID)",
                "add the constraint as NOT VALID, validate it after",
            ),
        ):
            if re.search(pattern, line):
                found.append(f"{remedy}: {line}")
    return found


TIMEOUT = "SET LOCAL lock_timeout = '5s'"


@pytest.mark.parametrize(
    ("sql", "count"),
    [
        ([TIMEOUT, 'ALTER TABLE "job" ADD COLUMN "a" integer NULL;'], 0),
        ([TIMEOUT, 'ALTER TABLE "job" ADD COLUMN "a" integer DEFAULT 0 NOT NULL;'], 0),
        (['CREATE TABLE "new" ("a" integer NOT NULL);', 'CREATE INDEX "i" ON "new" ("a");'], 0),
        (['CREATE TABLE "new" ("a" bigint REFERENCES "job" ("id"));'], 1),
        ([TIMEOUT, 'CREATE TABLE "new" ("a" bigint REFERENCES "job" ("id"));'], 0),
        (['CREATE INDEX CONCURRENTLY "i" ON "job" ("a");'], 0),
        (['ALTER TABLE "job" ADD COLUMN "a" integer NULL;'], 1),
        ([TIMEOUT, 'ALTER TABLE "job" ADD COLUMN "a" integer NOT NULL;'], 1),
        ([TIMEOUT, 'ALTER TABLE "job" ALTER COLUMN "a" DROP DEFAULT;'], 1),
        ([TIMEOUT, 'ALTER TABLE "job" ALTER COLUMN "a" TYPE bigint;'], 1),
        ([TIMEOUT, 'ALTER TABLE "job" ALTER COLUMN "a" SET NOT NULL;'], 1),
        ([TIMEOUT, 'ALTER TABLE "job" DROP COLUMN "a" CASCADE;'], 1),
        ([TIMEOUT, 'ALTER TABLE "job" RENAME COLUMN "a" TO "b";'], 1),
        ([TIMEOUT, 'ALTER TABLE "job" ADD CONSTRAINT "c" UNIQUE ("a");'], 1),
        (['CREATE INDEX "i" ON "job" ("a");'], 1),
        (['CREATE UNIQUE INDEX "i" ON "job" ("a");'], 1),
    ],
)
def test_violations_of_the_migration_rules_are_found(sql, count):
    assert len(violations(sql)) == count


@pytest.mark.django_db(transaction=True)  # an index cannot be created concurrently in a transaction
@pytest.mark.parametrize("app", sorted(BEFORE_THE_RULES))
@pytest.mark.slow
def test_migrations_neither_break_nor_block_the_previous_release(app):
    loader = MigrationLoader(connection, replace_migrations=False)
    new = [
        (loader.graph.nodes[node], False)
        for node in loader.graph.forwards_plan(loader.graph.leaf_nodes(app)[0])
        if node[0] == app and node[1][:4] > BEFORE_THE_RULES[app]
    ]
    for migration, backwards in new:
        sql = loader.collect_sql([(migration, backwards)])
        assert violations(sql) == [], migration
