"""Predictions over HTTP: accepted and refused requests, ids chosen by the client."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone

from generation.api.replicate.serializers import PredictionInputSerializer
from generation.images import store as images
from generation.jobs import lifecycle as jobs
from generation.models import IdempotencyKey, Job, Release
from generation.realtime.hub import HEADER, SHELL, Wait
from generation.webhooks.predictions import OWNER
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

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]

INPUT = {"prompt": "A  red VASE"}


@pytest.fixture
def variant():
    """An encoded variant of the catalogue, and an active student."""
    make_release(image_sizes=((64, 64), (128, 64)))
    variant = make_variant(slug="red-vase", text="a red vase")
    make_embedding(variant=variant)
    return variant


def created(answer) -> dict:
    assert answer.status_code == 202, answer.content
    return answer.json()


# --- create ---------------------------------------------------------------------------------------
def test_a_prediction_is_accepted_with_its_url_and_every_default(variant):
    api = API()

    answer = api.post("/v1/predictions", {"input": INPUT})

    prediction = created(answer)
    assert (prediction["status"], prediction["phase"]) == ("starting", "queued")
    assert answer["Location"] == prediction["urls"]["get"]
    assert int(answer["Retry-After"]) >= 1
    assert api.get(answer["Location"]).json() == prediction
    job = Job.objects.get(id=prediction["id"])
    assert (job.owner, job.via, job.api_key) == (api.owner, "replicate", api.key)
    assert job.base_url == "http://testserver/"
    assert prediction["input"] == {
        "prompt": "a red vase",
        "seed": job.seed,
        "num_outputs": 1,
        "width": 64,
        "height": 64,
        "output_format": "webp",
        "priority": 0,
        "metadata": False,
    }
    assert prediction["queue"]["position"] == 1


def test_every_parameter_reaches_the_job(variant):
    requested = {
        "prompt": "a red vase", "seed": 7, "num_outputs": 3, "width": 128, "height": 64, "output_format": "jpg",
        "priority": 5, "metadata": True,
    }  # fmt: skip

    prediction = created(
        API().post(
            "/v1/predictions",
            {"input": requested, "model": "student", "stream": True},
            headers={"Cancel-After": "5m"},
        )
    )

    assert prediction["input"] == requested
    job = Job.objects.get()
    assert (job.n, job.output_format, job.cancel_at - job.created_at) == (
        3,
        "jpeg",
        timedelta(minutes=5),
    )


def test_parameters_of_the_jobs_api_are_accepted_too(variant):
    requested = {"variant": "red-vase", "size": "128x64", "output_format": "jpeg"}

    shown = created(API().post("/v1/predictions", {"input": requested}))

    assert (shown["variant"], shown["input"]["width"]) == ("red-vase", 128)
    assert shown["input"]["output_format"] == "jpg"


@pytest.mark.parametrize(
    ("body", "parameter", "word"),
    [
        ({}, "input", "required"),
        ({"input": []}, "input", "dictionary"),
        ({"input": {}}, "input.prompt", "exactly one"),
        ({"input": INPUT | {"variant": "red-vase"}}, "input.prompt", "exactly one"),
        ({"input": INPUT | {"n": 2}}, "input.n", "num_outputs"),
        ({"input": INPUT | {"guidance_scale": 7}}, "input.guidance_scale", "Remove the parameter"),
        ({"input": INPUT | {"mask": "x"}}, "input.mask", "Known: "),
        ({"input": INPUT | {"width": 64}}, "input.width", "width and height"),
        (
            {"input": INPUT | {"width": 64, "height": 64, "size": "64x64"}},
            "input.width",
            "width and height",
        ),
        ({"input": INPUT | {"output_format": "gif"}}, "input.output_format", "gif"),
        ({"input": INPUT | {"seed": -1}}, "input.seed", "0"),
        ({"input": INPUT | {"num_outputs": 99}}, "input.num_outputs", "10"),
        ({"input": INPUT, "model": "student", "version": "student-1"}, "model", "one of"),
        ({"input": INPUT, "webhook_completed": "https://x"}, "webhook_completed", "completed"),
        ({"input": INPUT, "prompt": "x"}, "prompt", "into input"),
        ({"input": INPUT, "id": "x"}, "id", "Known: "),
    ],
)
def test_an_error_names_the_parameter(variant, body: dict, parameter: str, word: str):
    refused = problem(API().post("/v1/predictions", body), 400, "invalid_request")

    (error,) = refused["errors"]
    assert error["parameter"] == parameter
    assert word in error["detail"]
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    ("requested", "status", "code", "parameter"),
    [
        ({"prompt": "a blue vase"}, 422, "variant_not_found", "input.prompt"),
        ({"variant": "blue-vase"}, 422, "variant_not_found", "input.variant"),
        (INPUT | {"width": 65, "height": 64}, 400, "invalid_request", "input.size"),
    ],
)
def test_an_error_found_in_the_catalogue_names_the_parameter(
    variant, requested, status, code, parameter
):
    refused = problem(API().post("/v1/predictions", {"input": requested}), status, code)

    assert refused["parameter"] == parameter


def test_respond_async_is_confirmed_in_the_answer(variant):
    answer = API().post(
        "/v1/predictions", {"input": INPUT}, headers={"Prefer": "respond-async, wait=5"}
    )

    assert answer["Preference-Applied"] == "respond-async"


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/predictions", {"input": INPUT}), ("/v1/jobs", {"text": "a red vase"})]
)
def test_a_host_that_links_cannot_contain_is_refused(variant, settings, path: str, body: dict):
    settings.ALLOWED_HOSTS = ["*"]

    refused = API().post(path, body, headers={"Host": "a" * 200 + ".example"})

    assert problem(refused, 400, "invalid_request")["parameter"] == "Host"


def test_stored_images_answer_at_once(variant):
    api = API()
    requested = {"input": INPUT | {"seed": 7}}
    first = Job.objects.get(id=created(api.post("/v1/predictions", requested))["id"])
    image = make_image(job=first)
    image.key = images.keys(first)[0]
    image.save()
    Job.objects.filter(id=first.id).update(status="succeeded", finished_at=timezone.now())

    answer = api.post("/v1/predictions", requested)

    assert answer.status_code == 201
    prediction = answer.json()
    assert (prediction["status"], prediction["cache"], len(prediction["output"])) == (
        "succeeded",
        "hit",
        1,
    )
    assert "Retry-After" not in answer


def test_the_same_idempotency_key_gets_the_same_prediction(variant):
    api, key = API(), {"Idempotency-Key": '"k-1"'}

    first = created(api.post("/v1/predictions", {"input": INPUT}, headers=key))
    again = created(api.post("/v1/predictions", {"input": INPUT}, headers=key))

    assert again["id"] == first["id"]
    other = api.post("/v1/predictions", {"input": INPUT | {"seed": 1}}, headers=key)
    problem(other, 422, "idempotency_key_reused")
    elsewhere = api.post("/v1/models/retort/student/predictions", {"input": INPUT}, headers=key)
    problem(elsewhere, 422, "idempotency_key_reused")


# --- waiting --------------------------------------------------------------------------------------
def shell(method: str = "") -> dict:
    return {"asgi.scope": {SHELL: method}}


def test_a_client_that_waits_for_its_prediction_is_held_and_gets_the_status_of_a_creation(variant):
    api = API()

    held = api.post("/v1/predictions", {"input": INPUT}, headers={"Prefer": "wait=5"}, **shell())

    wait = Wait.decode(held[HEADER])
    prediction = created(held)
    assert (wait.seconds, wait.then) == (5, f"/v1/predictions/{prediction['id']}")
    Job.objects.update(status="running", lease_expires_at=timezone.now() + timedelta(minutes=1))
    unfinished = api.get(wait.then, headers={"Prefer": "wait=5"}, **shell("POST"))
    # Replicate's clients treat "processing" in the answer to a creation as the end of the prediction.
    assert (unfinished.status_code, unfinished.json()["status"]) == (202, "starting")
    assert unfinished.json()["phase"] == "running"
    jobs.cancel(Job.objects.get().id)
    final = api.get(wait.then, headers={"Prefer": "wait=5"}, **shell("POST"))
    assert (final.status_code, final.json()["status"]) == (201, "canceled")
    assert final["Location"].endswith(wait.then)
    assert final["Preference-Applied"] == "wait=5"
    assert HEADER not in final


def test_a_condition_of_a_post_does_not_apply_to_the_answer_after_the_wait(variant):
    api = API()
    headers = {"Prefer": "wait=5", "If-None-Match": "*"}
    for path in ("/v1/jobs", "/v1/predictions"):
        body = {"input": INPUT} if path == "/v1/predictions" else {"variant": variant.slug}
        wait = Wait.decode(api.post(path, body, headers=headers, **shell())[HEADER])
        jobs.cancel(Job.objects.latest("created_at").id)

        assert api.get(wait.then, headers=headers, **shell("POST")).status_code in (200, 201)
        assert api.get(wait.then, headers=headers, **shell("GET")).status_code == 304


def test_a_key_without_the_read_scope_is_not_held_for_a_prediction(variant):
    api = API(scopes=["jobs:write"])

    answer = api.post("/v1/predictions", {"input": INPUT}, headers={"Prefer": "wait=5"}, **shell())

    created(answer)
    assert HEADER not in answer
    assert "Preference-Applied" not in answer


def test_a_read_may_wait(variant):
    api = API()
    job = make_job(owner=api.owner, status="running", external_id="mine")

    answer = api.get("/v1/predictions/mine", {"wait": 7}, **shell())

    assert (answer.status_code, answer.json()["status"]) == (200, "processing")
    wait = Wait.decode(answer[HEADER])
    assert (wait.seconds, wait.then) == (7, "/v1/predictions/mine?wait=7")
    assert str(job.id) in wait.channel


# --- models and versions --------------------------------------------------------------------------
@pytest.mark.parametrize(
    "version",
    [
        "{sha256}",
        "{sha256:.8}",
        "tried",
        "retort/tried",
        "retort/tried:tried",
        "retort/student:{sha256}",
        "retort/student:{sha256:.12}",
        "retort/student:tried",
    ],
)
def test_a_version_names_a_release(variant, version: str):
    release = make_release(name="tried", status="candidate")
    named = version.format(sha256=release.manifest_sha256)

    shown = created(API().post("/v1/predictions", {"input": INPUT, "version": named}))

    assert shown["version"] == release.manifest_sha256
    assert (shown["model"], Job.objects.get().release) == ("retort/student", release)


@pytest.mark.parametrize("model", ["retort/student", "student", "student-1"])
def test_a_model_names_the_active_release(variant, model: str):
    created(API().post("/v1/predictions", {"input": INPUT, "model": model}))

    assert Job.objects.get().release.name == "student-1"


@pytest.mark.parametrize(
    "version",
    ["0" * 64, "unknown", "retort/unknown", "retort/teacher:student-1", "retort/student:x",
     "someone/student", "retort/teacher", "retort/", "/", ":", "a:b", "retort/student:a:b", "bad"],
)  # fmt: skip
def test_an_unknown_version_is_refused(variant, version: str):
    make_release(name="bad", status="rejected")

    refused = API().post("/v1/predictions", {"input": INPUT, "version": version})

    problem(refused, 422, "release_not_available")


def test_an_ambiguous_version_prefix_is_refused(variant):
    for name in ("one", "two"):
        release = make_release(name=name)
        Release.objects.filter(pk=release.pk).update(manifest_sha256="abcdef012345" + name * 3)

    refused = API().post("/v1/predictions", {"input": INPUT, "version": "abcdef012345"})

    assert "more than one" in problem(refused, 422, "release_not_available")["detail"]


def test_predictions_are_created_at_the_url_of_a_model(variant):
    make_release(name="tried", status="candidate")

    created(API().post("/v1/models/retort/tried/predictions", {"input": INPUT}))

    assert Job.objects.get().release.name == "tried"
    refused = API().post("/v1/models/retort/no/predictions", {"input": INPUT})
    problem(refused, 422, "release_not_available")
    both = API().post("/v1/models/retort/tried/predictions", {"input": INPUT, "version": "x"})
    problem(both, 400, "invalid_request")


def test_a_model_has_its_latest_version_and_input_schema(variant):
    api = API(scopes=["jobs:read"])

    model = api.get(f"/v1/models/{OWNER}/student").json()

    version = model["latest_version"]
    assert version["id"] == Release.objects.get().manifest_sha256
    assert model["url"] == "http://testserver/v1/models/retort/student"
    schemas = version["openapi_schema"]["components"]["schemas"]
    assert set(schemas["Input"]["properties"]) == set(PredictionInputSerializer().fields)
    assert schemas["Input"]["properties"]["size"]["enum"] == ["64x64", "128x64"]
    assert schemas["Output"]["type"] == "array"
    for name in (version["id"], version["id"][:10], "student-1"):
        assert api.get(f"/v1/models/retort/student/versions/{name}").json() == version
    for gone in (
        "someone/student",
        "retort/no",
        "retort/student/versions/no",
        "retort/no/versions/x",
    ):
        problem(api.get(f"/v1/models/{gone}"), 404, "not_found")


# --- ids chosen by clients ------------------------------------------------------------------------
def put(api: API, name: str, body: dict, **extra):
    return api.put(f"/v1/predictions/{name}", body, **extra)


def test_a_repeated_put_gets_the_same_prediction_even_long_after_its_end(variant):
    api = API()
    first = created(put(api, "vase_1-A", {"input": INPUT}))
    assert (first["id"], first["job"]) == ("vase_1-A", str(Job.objects.get().id))
    assert first["urls"]["get"].endswith("/v1/predictions/vase_1-A")

    assert created(put(api, "vase_1-A", {"input": INPUT}))["job"] == first["job"]
    jobs.cancel(Job.objects.get().id)
    IdempotencyKey.objects.all().delete()
    again = put(api, "vase_1-A", {"input": INPUT})

    assert (again.status_code, again.json()["status"]) == (201, "canceled")
    assert again.json()["job"] == first["job"]
    assert api.get("/v1/predictions/vase_1-A").json()["job"] == first["job"]
    assert api.get(f"/v1/predictions/{first['job']}").json()["id"] == "vase_1-A"
    assert Job.objects.count() == 1


def test_an_id_with_another_body_is_refused(variant):
    api = API()
    created(put(api, "vase", {"input": INPUT}))

    refused = problem(
        put(api, "vase", {"input": INPUT | {"seed": 1}}), 422, "idempotency_key_reused"
    )

    assert refused["parameter"] == "id"


def test_the_id_of_an_existing_job_cannot_be_chosen(variant):
    api = API()
    known = created(api.post("/v1/predictions", {"input": INPUT}))

    problem(put(api, known["id"], {"input": INPUT}), 422, "idempotency_key_reused")

    own = str(uuid4())
    assert created(put(api, own, {"input": INPUT}))["id"] == own


def test_an_id_belongs_to_its_owner(variant):
    first = created(put(API(), "vase", {"input": INPUT}))
    other = API(owner=make_user(username="other"))

    problem(other.get("/v1/predictions/vase"), 404, "not_found")
    problem(other.get(f"/v1/predictions/{first['job']}"), 404, "not_found")
    problem(other.post("/v1/predictions/vase/cancel"), 404, "not_found")

    second = created(put(other, "vase", {"input": INPUT}))
    assert second["job"] != first["job"]


@pytest.mark.parametrize("name", ["a" * 65, "a.b", "ü", "%00", "a b", "{}"])
def test_an_id_with_invalid_characters_cannot_be_chosen_or_found(variant, name: str):
    api = API()

    refused = problem(put(api, name, {"input": INPUT}), 400, "invalid_request")
    assert refused["parameter"] == "id"
    problem(api.get(f"/v1/predictions/{name}"), 404, "not_found")
    problem(api.post(f"/v1/predictions/{name}/cancel"), 404, "not_found")


def test_a_refused_put_leaves_its_id_free(variant):
    api = API()
    problem(put(api, "vase", {"input": {"prompt": "x"}}), 422, "variant_not_found")

    created(put(api, "vase", {"input": INPUT}))


@pytest.mark.django_db(transaction=True)
def test_one_of_several_concurrent_puts_creates_the_job(variant):
    api, answers = API(), []

    in_threads(lambda: answers.append(put(api, "vase", {"input": INPUT})), count=6)

    assert {created(answer)["job"] for answer in answers} == {str(Job.objects.get().id)}


# --- read, list, cancel ---------------------------------------------------------------------------
def test_an_unchanged_prediction_is_not_sent_again(variant):
    api = API()
    job = make_job(owner=api.owner, status="failed")
    first = api.get(f"/v1/predictions/{job.id}")

    again = api.get(f"/v1/predictions/{job.id}", headers={"If-None-Match": first["ETag"]})

    assert (again.status_code, again.content) == (304, b"")


def test_a_page_has_the_newest_first_and_links_to_the_next(variant):
    api = API()
    made = [make_job(owner=api.owner, seed=seed) for seed in range(5)]
    make_job(owner=make_user(username="other"))

    page = api.get("/v1/predictions", {"limit": 3}).json()
    following = api.get(page["next"]).json()

    ids = [shown["id"] for shown in page["results"] + following["results"]]
    assert ids == [str(job.id) for job in reversed(made)]
    assert (page["previous"], following["next"]) == (None, None)
    since = made[2].created_at.isoformat()
    later = api.get("/v1/predictions", {"created_after": since}).json()["results"]
    assert [shown["id"] for shown in later] == ids[:2]
    earlier = api.get("/v1/predictions", {"created_before": since}).json()["results"]
    assert [shown["id"] for shown in earlier] == ids[3:]


def test_a_page_of_many_predictions_costs_few_queries(variant, django_assert_max_num_queries):
    api = API()
    for seed in range(8):
        make_image(job=make_job(owner=api.owner, seed=seed, status="succeeded"))

    with django_assert_max_num_queries(5):
        assert len(api.get("/v1/predictions").json()["results"]) == 8


def test_canceling_ends_a_prediction_once_and_returns_its_state(variant):
    api = API()
    job = make_job(owner=api.owner, external_id="vase")

    first = api.post("/v1/predictions/vase/cancel")
    again = api.post(f"/v1/predictions/{job.id}/cancel")

    assert (first.status_code, first.json()["status"]) == (200, "canceled")
    assert again.json() == first.json()
    done = make_job(owner=api.owner, status="succeeded")
    assert api.post(f"/v1/predictions/{done.id}/cancel").json()["status"] == "succeeded"
    problem(api.post(f"/v1/predictions/{uuid4()}/cancel"), 404, "not_found")


def test_a_prediction_whose_deadline_passed_before_its_start_is_aborted(variant):
    api = API()
    past = timezone.now() - timedelta(seconds=1)
    job = make_job(owner=api.owner, cancel_at=past)

    assert api.get(f"/v1/predictions/{job.id}").json()["status"] == "aborted"


# --- webhooks -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (None, ["start", "output", "completed"]),
        (["completed", "logs", "start"], ["start", "completed"]),
    ],
)
def test_a_webhook_gets_the_requested_events(variant, events, expected: list[str]):
    requested = {"input": INPUT, "webhook": "https://example.com/hook"}
    requested |= {"webhook_events_filter": events} if events else {}

    created(API().post("/v1/predictions", requested))

    job = Job.objects.get()
    assert (job.webhook.url, job.webhook_events) == ("https://example.com/hook", expected)


@pytest.mark.parametrize(
    ("requested", "parameter"),
    [
        ({"webhook": "https://example.com", "webhook_events_filter": ["logs"]}, "events_filter"),
        ({"webhook": "https://example.com", "webhook_events_filter": []}, "events_filter"),
        ({"webhook": "https://example.com", "webhook_events_filter": ["end"]}, "events_filter"),
        ({"webhook_events_filter": ["start"]}, "events_filter"),
        ({"webhook": "https://" + "a" * 500}, "webhook"),
        ({"webhook": "https://127.0.0.1/x"}, "webhook"),
        ({"webhook": "ftp://example.com"}, "webhook"),
    ],
)
def test_an_invalid_webhook_is_refused(variant, requested: dict, parameter: str):
    body = {"input": INPUT} | requested

    refused = problem(API().post("/v1/predictions", body), 400, "invalid_request")

    named = refused.get("parameter") or refused["errors"][0]["parameter"]
    assert parameter in named
