"""Jobs over HTTP: accepted and refused requests, and the owner's view."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from generation.jobs import estimates
from generation.jobs import lifecycle as jobs
from generation.models import Job
from generation.realtime.hub import HEADER, SHELL, Wait
from tests import fake_worker
from tests.client import API, problem
from tests.factories import (
    make_embedding,
    make_image,
    make_job,
    make_release,
    make_user,
    make_variant,
    make_worker,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]

FIELDS = {
    "id", "status", "variant", "text", "match", "model", "n", "seed", "size", "num_inference_steps", "output_format",
    "priority", "metadata", "max_tries", "cache", "attempt", "progress", "queue", "error", "images", "created_at",
    "started_at", "finished_at", "metrics", "urls",
}  # fmt: skip


@pytest.fixture
def variant():
    """An encoded variant of the catalogue, and an active student."""
    make_release(image_sizes=((64, 64), (128, 64)))
    variant = make_variant(slug="red-vase", text="a red vase")
    make_embedding(variant=variant)
    return variant


# --- create ---------------------------------------------------------------------------------------
def test_a_job_is_accepted_with_its_url_and_every_default(variant):
    api = API()

    answer = api.post("/v1/jobs", {"variant": "red-vase"})

    assert answer.status_code == 202, answer.content
    job = answer.json()
    assert set(job) == FIELDS
    assert (job["status"], job["variant"], job["text"]) == ("queued", "red-vase", "a red vase")
    assert (job["model"], job["n"], job["size"], job["output_format"]) == (
        "student-1",
        1,
        "64x64",
        "webp",
    )
    assert (job["images"], job["error"], job["progress"]) == ([], None, 0)
    assert answer["Location"] == job["urls"]["self"]
    assert int(answer["Retry-After"]) >= 1
    assert api.get(answer["Location"]).json() == job
    row = Job.objects.get(id=job["id"])
    assert (row.owner, row.seed) == (api.owner, job["seed"])


def test_every_parameter_reaches_the_job(variant):
    fields = {
        "text": "A  red VASE", "n": 3, "seed": 7, "size": "128x64", "output_format": "png", "model": "student",
        "priority": 5,
    }  # fmt: skip

    job = API().post("/v1/jobs", fields).json()

    assert job["variant"] == "red-vase"
    assert {name: job[name] for name in ("n", "seed", "size", "output_format", "priority")} == {
        name: fields[name] for name in ("n", "seed", "size", "output_format", "priority")
    }


@pytest.mark.parametrize("name", ["varient", "guidance_scale", "N", "prompt"])
def test_an_unknown_field_is_refused_by_name(variant, name: str):
    body = problem(API().post("/v1/jobs", {"variant": "red-vase", name: 1}), 400, "invalid_request")

    (error,) = body["errors"]
    assert (error["parameter"], error["pointer"], error["code"]) == (
        name,
        f"#/{name}",
        "unsupported_parameter",
    )
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0), ("n", 11), ("n", "two"), ("n", None), ("seed", -1), ("seed", 2**32), ("seed", 1.5), ("size", "64"),
        ("size", "64X64"), ("output_format", "gif"), ("variant", ""), ("variant", ["red-vase"]), ("priority", 1000),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_type_is_refused_by_name(variant, field: str, value):
    body = problem(
        API().post("/v1/jobs", {"variant": "red-vase", field: value}), 400, "invalid_request"
    )

    assert [error["parameter"] for error in body["errors"]] == [field]


@pytest.mark.parametrize("value", [0, 11, "two", 1.5, "9" * 2000])
def test_every_wrong_number_has_the_same_plain_message(variant, value):
    for path, body in (
        ("/v1/jobs", {"variant": "red-vase", "n": value}),
        ("/v1/images/generations", {"prompt": "a red vase", "n": value}),
        ("/v1/predictions", {"input": {"prompt": "a red vase", "num_outputs": value}}),
    ):
        answer = API().post(path, body)
        assert answer.status_code in (400, 422)
        assert "Give a whole number from 1 to 10." in answer.content.decode()


@pytest.mark.parametrize(
    ("fields", "status", "code", "parameter"),
    [
        ({}, 400, "invalid_request", "variant"),
        ({"variant": "red-vase", "text": "a red vase"}, 400, "invalid_request", "variant"),
        ({"variant": "red-vase", "size": "32x32"}, 400, "invalid_request", "size"),
        ({"variant": "red-vase", "n": 10, "seed": 2**32 - 5}, 400, "invalid_request", "seed"),
        ({"variant": "nobody-knows-it"}, 422, "variant_not_found", "variant"),
        ({"text": "nobody wrote this"}, 422, "variant_not_found", "text"),
        ({"variant": "red-vase", "model": "nothing"}, 422, "release_not_available", "model"),
    ],
)
def test_a_refusal_names_the_parameter(
    variant, fields: dict, status: int, code: str, parameter: str
):
    assert problem(API().post("/v1/jobs", fields), status, code)["parameter"] == parameter


def test_a_variant_without_an_embedding_is_refused_temporarily(variant):
    make_variant(slug="brand-new", text="a brand new cup")

    answer = API().post("/v1/jobs", {"variant": "brand-new"})

    assert problem(answer, 409, "variant_not_encoded")["retryable"] is True
    assert int(answer["Retry-After"]) >= 1


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        ('{"variant":', "application/json", 400, "parse_error"),
        ("[1, 2]", "application/json", 400, "invalid_request"),
        ('"text"', "application/json", 400, "invalid_request"),
        ("variant=red-vase", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        (b"\xff\xfe", "application/json", 400, "parse_error"),
    ],
)
def test_a_body_that_is_not_a_json_object_is_refused(
    body, content_type: str, status: int, code: str
):
    problem(API()._client.post("/v1/jobs", body, content_type=content_type), status, code)


# --- read -----------------------------------------------------------------------------------------
def test_a_succeeded_job_shows_its_images_with_links_that_work():
    api = API()
    job = make_job(
        owner=api.owner, status="succeeded", n=2, seed=5, output_format="png", device_seconds=0.25
    )
    images = [make_image(job=job, index=index, color=(index * 90, 0, 0)) for index in range(2)]

    shown = api.get(f"/v1/jobs/{job.id}").json()

    assert (shown["status"], shown["progress"], shown["metrics"]["device_seconds"]) == (
        "succeeded",
        100,
        0.25,
    )
    assert shown["metrics"]["total_seconds"] >= 0
    assert [(row["index"], row["seed"], row["sha256"]) for row in shown["images"]] == [
        (image.index, image.seed, image.sha256) for image in images
    ]
    for row in shown["images"]:
        file = api.get(row["url"])
        assert (file.status_code, len(file.content)) == (200, row["size_bytes"])


def test_a_failed_job_has_its_error():
    api = API()
    job = make_job(
        owner=api.owner, status="failed", error_code="out_of_memory", error_detail="No room."
    )

    assert api.get(f"/v1/jobs/{job.id}").json()["error"] == {
        "code": "out_of_memory",
        "detail": "No room.",
    }


def test_a_running_job_shows_its_progress(redis_server):
    api = API()
    job = make_job(owner=api.owner, status="running")
    redis_server.set(f"retort:progress:{job.id}", 40)

    assert api.get(f"/v1/jobs/{job.id}").json()["progress"] == 40


def test_the_text_on_a_job_is_the_one_its_images_were_made_from():
    api = API()
    job = make_job(owner=api.owner)
    job.variant.text = "something else now"
    job.variant.save()

    assert api.get(f"/v1/jobs/{job.id}").json()["text"] == job.embedding.text


def test_jobs_and_images_of_other_owners_are_not_found():
    job = make_job(owner=make_user(username="somebody"), status="succeeded")
    image = make_image(job=job)
    api = API(owner=make_user(username="else"))

    problem(api.get(f"/v1/jobs/{job.id}"), 404, "not_found")
    problem(api.post(f"/v1/jobs/{job.id}/cancel"), 404, "not_found")
    problem(api.get(f"/v1/images/{image.id}"), 404, "not_found")
    assert api.get("/v1/jobs").json()["results"] == []
    problem(api.get(f"/v1/jobs/{uuid4()}"), 404, "not_found")
    problem(api.get("/v1/jobs/no-uuid"), 404, "not_found")


def test_reading_a_job_costs_three_queries_at_most(django_assert_max_num_queries):
    api = API()
    job = make_job(owner=api.owner, status="succeeded")
    make_image(job=job)
    api.get("/v1/jobs")

    with django_assert_max_num_queries(3):
        api.get(f"/v1/jobs/{job.id}")


def test_listing_costs_the_same_for_one_job_and_for_many(django_assert_max_num_queries):
    api = API()
    for seed in range(8):
        make_image(job=make_job(owner=api.owner, status="succeeded", seed=seed))
    api.get("/v1/releases")

    with django_assert_max_num_queries(3):
        assert len(api.get("/v1/jobs").json()["results"]) == 8


def test_own_jobs_are_listed_newest_first_page_by_page_and_by_status():
    api = API()
    made = [make_job(owner=api.owner, seed=seed) for seed in range(4)]
    done = make_job(owner=api.owner, status="succeeded")
    newest_first = [str(job.id) for job in (done, *reversed(made))]

    first = api.get("/v1/jobs", {"limit": 3}).json()
    second = api.get(first["next"]).json()

    assert [job["id"] for page in (first, second) for job in page["results"]] == newest_first
    assert second["next"] is None
    assert [
        job["id"] for job in api.get("/v1/jobs", {"status": "succeeded"}).json()["results"]
    ] == [str(done.id)]
    problem(api.get("/v1/jobs", {"status": "pending"}), 400, "invalid_request")


# --- cancel ---------------------------------------------------------------------------------------
def test_cancel_ends_a_job_and_may_be_repeated():
    api = API()
    job = make_job(owner=api.owner, status="running")

    first = api.post(f"/v1/jobs/{job.id}/cancel")
    again = api.post(f"/v1/jobs/{job.id}/cancel")

    assert (first.status_code, first.json()["status"]) == (200, "canceled")
    assert again.json() == first.json()
    job.refresh_from_db()
    assert job.status == "canceled"


def test_cancel_does_not_change_a_job_that_has_ended():
    api = API()
    job = make_job(owner=api.owner, status="succeeded")

    assert api.post(f"/v1/jobs/{job.id}/cancel").json()["status"] == "succeeded"


# --- preferences, deadlines, idempotency keys -----------------------------------------------------
SHELLED = {"asgi.scope": {SHELL: ""}}


def test_prefer_wait_holds_the_answer_to_the_post_and_is_confirmed(variant):
    answer = API().post("/v1/jobs", {"variant": "red-vase"}, HTTP_PREFER="foo, wait=7", **SHELLED)

    wait = wait_of(answer)
    assert wait and (wait.seconds, wait.then) == (7, f"/v1/jobs/{answer.json()['id']}")
    assert answer["Preference-Applied"] == "wait=7"
    assert answer.status_code == 202 and answer["Location"].endswith(wait.then)


def test_a_key_without_the_read_scope_is_not_held(variant):
    api = API(scopes=["jobs:write"])

    answer = api.post("/v1/jobs", {"variant": "red-vase"}, HTTP_PREFER="wait=7", **SHELLED)

    assert answer.status_code == 202 and wait_of(answer) is None
    assert "Preference-Applied" not in answer


def test_the_answer_after_a_wait_has_the_headers_of_the_post(variant):
    api = API()
    job = api.post("/v1/jobs", {"variant": "red-vase"}).json()
    again = {"asgi.scope": {SHELL: "POST"}, "HTTP_PREFER": "wait=7"}

    unfinished = api.get(f"/v1/jobs/{job['id']}", **again)
    Job.objects.filter(id=job["id"]).update(status="succeeded", finished_at=timezone.now())
    finished = api.get(f"/v1/jobs/{job['id']}", **again)

    assert (unfinished.status_code, finished.status_code) == (202, 200)
    for answer in (unfinished, finished):
        assert answer["Location"] == job["urls"]["self"]
        assert answer["Preference-Applied"] == "wait=7"


@pytest.mark.parametrize(
    ("header", "applied"),
    [
        ("respond-async", "respond-async"), ("respond-async, wait=5", "respond-async"), ("wait", "wait=60"),
        ("wait=600", "wait=60"), ('wait="5"', "wait=5"), ("wait=soon", None), ("wait=-1", None), ("colour=red", None),
        (",;,=", None),
    ],
)  # fmt: skip
def test_preferences_are_applied_or_silently_ignored(variant, header: str, applied: str | None):
    answer = API().post("/v1/jobs", {"variant": "red-vase"}, HTTP_PREFER=header)

    assert answer.status_code == 202
    assert answer.get("Preference-Applied") == applied


@pytest.mark.parametrize(("header", "seconds"), [("15s", 15), ("1m", 60), ("2h", 7200), ("90", 90)])
def test_cancel_after_sets_the_deadline_of_a_job(variant, header: str, seconds: int):
    job = API().post("/v1/jobs", {"variant": "red-vase"}, HTTP_CANCEL_AFTER=header).json()

    row = Job.objects.get(id=job["id"])
    assert (row.cancel_at - row.created_at).total_seconds() == seconds


@pytest.mark.parametrize(
    "header", ["", "soon", "0s", "-5", "1.5s", "31d", "99999999999999s", "1s 2s"]
)
def test_an_invalid_cancel_after_is_refused(variant, header: str):
    answer = API().post("/v1/jobs", {"variant": "red-vase"}, HTTP_CANCEL_AFTER=header)

    assert problem(answer, 400, "invalid_request")["parameter"] == "Cancel-After"


def test_reading_a_job_after_its_deadline_ends_it():
    api = API()
    now = timezone.now()
    job = make_job(owner=api.owner, created_at=now - timedelta(60), cancel_at=now)

    body = api.get(f"/v1/jobs/{job.id}").json()

    assert (body["status"], body["error"]["code"]) == ("canceled", "deadline_before_start")


def test_the_same_idempotency_key_gets_the_same_job(variant):
    api = API()
    fields = {"variant": "red-vase", "n": 2}
    first = api.post("/v1/jobs", fields, HTTP_IDEMPOTENCY_KEY='"order-7"').json()
    again = api.post("/v1/jobs", {"n": 2, "variant": "red-vase"}, HTTP_IDEMPOTENCY_KEY="order-7")

    assert again.status_code == 202 and again.json()["id"] == first["id"]
    assert Job.objects.count() == 1
    other = api.post("/v1/jobs", fields | {"n": 1}, HTTP_IDEMPOTENCY_KEY="order-7")
    problem(other, 422, "idempotency_key_reused")
    assert (
        API(owner=make_user(username="another"))
        .post("/v1/jobs", fields, HTTP_IDEMPOTENCY_KEY="order-7")
        .json()["id"]
        != first["id"]
    )


def test_a_refused_request_leaves_its_idempotency_key_free(variant):
    api = API()
    problem(
        api.post("/v1/jobs", {"variant": "gone"}, HTTP_IDEMPOTENCY_KEY="k"),
        422,
        "variant_not_found",
    )

    assert (
        api.post("/v1/jobs", {"variant": "red-vase"}, HTTP_IDEMPOTENCY_KEY="k").status_code == 202
    )


@pytest.mark.parametrize("header", ["", '""', "x" * 256, "schlüssel", "two\tcells"])
def test_an_invalid_idempotency_key_is_refused(variant, header: str):
    answer = API().post("/v1/jobs", {"variant": "red-vase"}, HTTP_IDEMPOTENCY_KEY=header)

    assert problem(answer, 400, "invalid_request")["parameter"] == "Idempotency-Key"


def test_an_unchanged_job_is_answered_with_304_to_its_etag():
    api = API()
    job = make_job(owner=api.owner)
    etag = api.get(f"/v1/jobs/{job.id}")["ETag"]

    same = api.get(f"/v1/jobs/{job.id}", HTTP_IF_NONE_MATCH=etag)
    jobs.cancel(job.id)
    changed = api.get(f"/v1/jobs/{job.id}", HTTP_IF_NONE_MATCH=etag)

    assert (same.status_code, same.content) == (304, b"")
    assert changed.status_code == 200 and changed["ETag"] != etag


def test_waiting_with_an_etag_holds_the_request_too():
    api = API()
    job = make_job(owner=api.owner)
    etag = api.get(f"/v1/jobs/{job.id}")["ETag"]

    held = api.get(f"/v1/jobs/{job.id}?wait=5", HTTP_IF_NONE_MATCH=etag, **SHELLED)

    assert held.status_code == 200 and wait_of(held)


def test_a_waiting_job_shows_its_place_and_estimate():
    api = API()
    first, second = make_job(owner=api.owner), make_job(owner=api.owner)
    estimates._served_by.cache_clear()

    alone = api.get(f"/v1/jobs/{second.id}").json()["queue"]
    make_worker(loaded=[second.release])
    estimates._served_by.cache_clear()
    served = api.get(f"/v1/jobs/{second.id}").json()["queue"]
    jobs.cancel(first.id)

    assert (alone["position"], alone["feasible"]) == (2, False) and "No worker" in alone["reason"]
    assert (served["position"], served["feasible"], served["reason"]) == (2, True, "")
    assert api.get(f"/v1/jobs/{second.id}").json()["queue"]["position"] == 1
    assert api.get(f"/v1/jobs/{first.id}").json()["queue"] is None


def test_jobs_are_filtered_by_variant_model_route_and_time(variant):
    api = API()
    old = make_job(owner=api.owner, created_at=timezone.now() - timedelta(days=2))
    new = api.post("/v1/jobs", {"variant": "red-vase"}).json()

    def ids(**query) -> list[str]:
        return [job["id"] for job in api.get("/v1/jobs", query).json()["results"]]

    assert ids(variant="red-vase") == [new["id"]]
    assert ids(model="student-1", via="jobs") == [new["id"], str(old.id)]
    assert ids(via="openai") == ids(model="unknown") == ids(variant="unknown") == []
    yesterday = (timezone.now() - timedelta(days=1)).isoformat()
    assert ids(created_after=yesterday) == [new["id"]]
    assert ids(created_before=yesterday) == [str(old.id)]
    problem(api.get("/v1/jobs", {"created_after": "yesterday"}), 400, "invalid_request")


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ({"model": "earlier"}, "job_owner_release"),
        ({"model": "rare"}, "generation_job_release_id"),
        ({"variant": "rare"}, "job_variant_newest"),
    ],
)
def test_a_filtered_list_reads_only_its_own_jobs(query, index):
    """Not all newer jobs of the owner, of which there may be a million."""
    api = API()
    make_job(owner=api.owner, status=Job.Status.CANCELED)
    earlier, _ = make_release(name="earlier"), make_release(name="rare")
    make_variant(slug="rare")
    copied = {
        "id": "gen_random_uuid()",
        "release_id": f"CASE WHEN number > 15000 THEN {earlier.pk} ELSE release_id END",
        "created_at": "created_at - number * interval '1 second'",
    }
    columns = [field.column for field in Job._meta.concrete_fields]
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO generation_job ({', '.join(columns)})"
            f" SELECT {', '.join(copied.get(name, name) for name in columns)}"
            " FROM generation_job, generate_series(1, 20000) number"
        )
        cursor.execute("ANALYZE generation_job")
        with CaptureQueriesContext(connection) as queries:
            found = api.get("/v1/jobs", query).json()["results"]
        (listing,) = [one["sql"] for one in queries if 'FROM "generation_job"' in one["sql"]]
        cursor.execute(f"EXPLAIN {listing}")
        plan = "\n".join(line for (line,) in cursor.fetchall())

    assert len(found) == (20 if query == {"model": "earlier"} else 0)
    assert f"using {index}" in plan, plan


# --- wait (the shell's part is in test_waiting) -----------------------------------------------------
def wait_of(answer) -> Wait | None:
    return Wait.decode(answer[HEADER]) if HEADER in answer else None


def test_the_header_for_the_shell_has_channel_end_statuses_seconds_and_url():
    api = API()
    job = make_job(owner=api.owner)
    url = f"/v1/jobs/{job.id}?wait=12.5"

    answer = api.get(url, **{"asgi.scope": {SHELL: ""}})

    assert wait_of(answer) == Wait(
        f"retort:job:{job.id}", ("succeeded", "failed", "canceled"), 12.5, url
    )


def test_the_header_for_the_shell_is_set_only_for_a_shell_and_a_reason_to_wait():
    api = API()
    queued, ended = make_job(owner=api.owner), make_job(owner=api.owner, status="failed")
    shell = {"asgi.scope": {SHELL: ""}}

    assert wait_of(api.get(f"/v1/jobs/{queued.id}?wait=5")) is None
    assert wait_of(api.get(f"/v1/jobs/{queued.id}", **shell)) is None
    assert wait_of(api.get(f"/v1/jobs/{ended.id}?wait=5", **shell)) is None


@pytest.mark.parametrize("wait", ["61", "-1", "soon", "nan", ""])
def test_an_invalid_time_to_wait_is_refused(wait: str):
    api = API()
    job = make_job(owner=api.owner)

    problem(api.get(f"/v1/jobs/{job.id}?wait={wait}"), 400, "invalid_request")


def test_a_job_answered_from_stored_images_is_finished_in_the_first_answer(variant):
    api = API()
    api.post("/v1/jobs", {"variant": "red-vase", "seed": 3})
    fake_worker.make_pictures()

    answer = api.post("/v1/jobs", {"variant": "red-vase", "seed": 3, "output_format": "png"})

    assert answer.status_code == 200
    assert "Retry-After" not in answer
    assert (answer.json()["status"], answer.json()["cache"]) == ("succeeded", "hit")
    assert answer.json()["images"][0]["format"] == "png"
