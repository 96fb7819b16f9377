"""POST /v1/variants/import: many prompt variants in one request, all or none."""

import json
import re
from pathlib import Path

import pytest
from django.db import connection, transaction

from generation.api import parsers
from generation.api.serializers.variants import MAX_ROWS
from generation.api.views.refusals import MAX_ERRORS
from generation.jobs import submission
from generation.jobs.job_request import JobRequest
from generation.models import AuditEntry, Job, PromptVariant
from tests.client import API, problem
from tests.factories import (
    make_embedding,
    make_image,
    make_job,
    make_release,
    make_user,
    make_variant,
)
from tests.threads import in_threads

pytestmark = pytest.mark.django_db

PATH = "/v1/variants/import"
API_MD = Path(__file__).resolve().parents[3] / "docs" / "api.md"


def send(*rows: dict, **options: bool):
    return API().post(PATH, {"variants": rows, **options})


def counts(answer) -> tuple[int, int, int]:
    assert answer.status_code == 200, answer.content
    body = answer.json()
    assert set(body) == {"created", "changed", "unchanged"}
    return body["created"], body["changed"], body["unchanged"]


def stored() -> list[dict]:
    return list(PromptVariant.objects.order_by("slug").values())


def test_variants_are_created_changed_and_left_as_they_are():
    make_variant(slug="jug", text="a blue jug", tags=["blue"], notes="old")
    make_variant(slug="mug", text="a mug", tags=["mug"])
    api = API()

    answer = api.post(
        PATH,
        {
            "variants": [
                {"text": " A  red vase", "tags": ["glass", "glass", "red"]},
                {"slug": "bowl", "text": "a bowl", "status": "draft", "notes": "later"},
                {"slug": "jug", "status": "archived", "tags": []},
                {"text": "A MUG", "tags": ["mug"]},
            ]
        },
    )

    assert counts(answer) == (2, 2, 0)  # the spelling of a text is a change
    rows = {row["slug"]: row for row in stored()}
    vase, bowl, jug, mug = (rows[slug] for slug in ("a-red-vase", "bowl", "jug", "mug"))
    assert (vase["text"], vase["tags"], vase["status"]) == (
        "A red vase",
        ["glass", "red"],
        "active",
    )
    assert (bowl["status"], bowl["notes"], bowl["tags"]) == ("draft", "later", [])
    assert (jug["text"], jug["status"], jug["tags"]) == ("a blue jug", "archived", [])
    assert (jug["notes"], jug["revision"], mug["text"], mug["revision"]) == ("old", 1, "A MUG", 2)
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.via, entry.actor) == (
        "catalogue_imported",
        "api",
        api.owner.username,
    )
    assert (entry.subject, entry.detail["new"]) == ("4 prompt variants", 2)


def test_a_repeated_import_changes_nothing():
    rows = [{"text": "a red vase", "tags": ["red"]}, {"slug": "jug", "text": "a jug", "notes": "n"}]
    assert counts(send(*rows)) == (2, 0, 0)
    before = stored()

    assert counts(send(*rows)) == (0, 0, 2)

    assert stored() == before
    assert AuditEntry.objects.count() == 1


def test_every_wrong_row_is_named_and_nothing_is_written():
    make_variant(slug="jug", text="a blue jug")
    before = stored()
    answer = send(
        {"slug": "good", "text": "a red vase"},
        {"text": "word " * 13, "tags": ["glass", "not-glass"]},
        {"slug": "copy", "text": "A RED  vase"},
        {"slug": "good", "text": "a grey cup"},
        {"slug": "jug", "tags": ["changed"]},
        {"slug": "new", "tags": ["without a text"]},
    )

    errors = problem(answer, 400, "invalid_request")["errors"]

    assert {error["code"] for error in errors} == {"prompt_invalid"}
    found = {error["pointer"]: error["detail"] for error in errors}
    assert sorted(found) == [
        "#/variants/1/tags",
        "#/variants/1/text",
        "#/variants/2/text",
        "#/variants/3/slug",
        "#/variants/5/text",
    ]
    assert errors[0]["parameter"].startswith("variants.1.")
    assert "13 words" in found["#/variants/1/text"]
    assert "contradict" in found["#/variants/1/tags"]
    assert "“good” already has this text" in found["#/variants/2/text"]
    assert "“good” is already in row 0" in found["#/variants/3/slug"]
    assert "empty" in found["#/variants/5/text"]
    assert stored() == before
    assert not AuditEntry.objects.exists()


@pytest.mark.parametrize(
    ("row", "pointer"),
    [
        ({"text": "a mug", "colour": "red"}, "/0/colour"),
        ({"text": "a mug", "slug": "a mug"}, "/0/slug"),
        ({"text": "a mug", "slug": "s" * 121}, "/0/slug"),
        ({"text": "a mug", "status": "ready"}, "/0/status"),
        ({"text": "a mug", "tags": "red"}, "/0/tags"),
        ({"text": "a mug", "tags": ["red", 1.5, {}]}, "/0/tags/2"),
        ({"text": None}, "/0/text"),
        ({"text": "a mug", "notes": "x" * 5001}, "/0/notes"),
        ("a mug", "/0"),
    ],
)
def test_a_wrong_field_is_named(row, pointer: str):
    body = problem(send(row), 400, "invalid_request")

    assert [error["pointer"] for error in body["errors"]] == [f"#/variants{pointer}"]
    assert not PromptVariant.objects.exists()


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({}, "variants"),
        ({"variants": []}, "variants"),
        ({"variants": {"text": "a mug"}}, "variants"),
        ({"variants": [{"text": "a mug"}], "dryrun": True}, "dryrun"),
        ({"variants": [{}] * (MAX_ROWS + 1)}, "variants"),
    ],
)
def test_a_body_that_is_no_import_is_refused(body: dict, parameter: str):
    answer = problem(API().post(PATH, body), 400, "invalid_request")

    assert [error["parameter"] for error in answer["errors"]] == [parameter]


def test_an_import_has_limits_of_values_bytes_and_reported_errors(settings):
    tags = ["red"] * (parsers.MAX_VALUES_OF_IMPORT // 100)
    many = [{"text": f"vase {number}", "tags": tags} for number in range(100)]
    assert "100000 values" in problem(send(*many), 400, "parse_error")["detail"]
    problem(API().post("/v1/variants", many[0]), 400, "parse_error")  # other routes allow fewer

    long = [{"text": f"vase {number} {'word ' * 11}"} for number in range(MAX_ERRORS + 7)]
    body = problem(send(*long), 400, "invalid_request")
    assert len(body["errors"]) == MAX_ERRORS
    assert body["detail"].endswith("; and 7 more errors")

    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    problem(send({"text": "a mug", "notes": "x" * 1000}), 413, "body_too_large")
    assert not PromptVariant.objects.exists()


def test_a_dry_run_counts_and_writes_nothing():
    make_variant(slug="jug", text="a blue jug")
    make_variant(slug="mug", text="a mug")
    before = stored()
    rows = ({"text": "a red vase"}, {"slug": "jug", "text": "a green jug"}, {"text": "a mug"})

    assert counts(send(*rows, dry_run=True)) == (1, 1, 1)
    problem(send({"text": ""}, dry_run=True), 400, "invalid_request")

    assert stored() == before
    assert not AuditEntry.objects.exists()


def test_texts_with_images_change_only_when_new_revisions_are_requested():
    vase = make_variant(slug="vase", text="a red vase")
    make_image(job=make_job(variant=vase, status="succeeded"))
    row = {"slug": "vase", "text": "a blue vase"}

    (error,) = problem(send(row), 400, "invalid_request")["errors"]
    assert "new revision" in error["detail"]

    assert counts(send(row, new_revisions=True)) == (0, 1, 0)
    vase.refresh_from_db()
    assert (vase.text, vase.revision) == ("a blue vase", 2)


def test_a_key_without_the_scope_or_the_owners_permissions_imports_nothing():
    body = {"variants": [{"text": "a mug"}]}
    reader = API(scopes=["variants:read", "jobs:write"])
    assert "variants:write" in problem(reader.post(PATH, body), 403, "permission_denied")["detail"]
    api = API()
    api.owner.user_permissions.clear()
    problem(api.post(PATH, body), 403, "permission_denied")
    assert not PromptVariant.objects.exists()


def test_thousands_of_rows_take_a_query_per_thousand(django_assert_max_num_queries):
    api, few = API(), [{"text": f"cup number {number}"} for number in range(10)]
    many = [{"text": f"vase number {number}", "tags": ["vase"]} for number in range(MAX_ROWS)]
    changed = [row | {"notes": "changed"} for row in many]
    taken = []
    for rows in (few, many, changed, changed):
        with django_assert_max_num_queries(100) as queries:
            assert sum(counts(api.post(PATH, {"variants": rows}))) == len(rows)
        taken.append(len(queries))

    batches = MAX_ROWS // 1000
    least = taken[0] - 1  # without the one batch
    # A savepoint around each batch takes two statements.
    assert taken[1] <= least + 3 * batches and taken[2] <= least + 3 * batches
    assert taken[3] <= taken[0]


@pytest.mark.django_db(transaction=True)
def test_an_import_requests_encoding_once_and_a_dry_run_does_not(redis_server):
    rows = ({"text": "a red vase"}, {"text": "a blue jug"})
    send(*rows, dry_run=True)
    assert redis_server.llen("encode") == 0
    send(*rows)
    assert redis_server.llen("encode") == 1


@pytest.mark.django_db(transaction=True)
def test_an_import_delays_no_job_of_the_variants_that_it_changes(redis_server):
    embedding = make_embedding(variant=make_variant(slug="vase", text="a red vase"))
    make_release(encoder_fingerprint=embedding.encoder_fingerprint)
    owner, accepted = make_user(), []

    def submit() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '5s'")
        accepted.append(submission.submit(owner, JobRequest(variant="vase")))

    with transaction.atomic():
        assert counts(send({"slug": "vase", "tags": ["red"]}, {"text": "a jug"})) == (1, 1, 0)
        in_threads(submit, count=1)

    assert len(accepted) == Job.objects.count() == 1


def test_a_variant_with_the_slug_import_is_read_and_changed():
    api = API()
    made = api.post("/v1/variants", {"text": "import"}).json()
    assert made["urls"]["self"].endswith(PATH)

    assert api.get(PATH).json() == made
    assert api.patch(PATH, {"tags": ["red"]}).json()["tags"] == ["red"]
    assert api.get("/v1/variants").json()["results"][0]["slug"] == "import"


def test_the_guides_example_is_accepted():
    section = API_MD.read_text().split("### Import", 1)[1].split("\n#", 1)[0]
    (body,) = re.findall(r"-d '(.*?)'\n```", section, re.DOTALL)

    assert sum(counts(API().post(PATH, json.loads(body)))) == 2
