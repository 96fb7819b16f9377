"""OpenAI's routes: accepted and refused requests; test_client has the behaviour of a real client."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from generation.errors import QueueFull
from generation.jobs import submission
from generation.models import IdempotencyKey, Image, Job
from tests.client import API
from tests.factories import (
    make_embedding,
    make_image,
    make_job,
    make_release,
    make_user,
    make_variant,
)
from tests.fake_worker import make_pictures
from tests.storage_faults import break_storage

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]

PATH = "/v1/images/generations"
BODY = {"prompt": "a red vase"}


@pytest.fixture(autouse=True)
def variant():
    """An encoded variant of the catalogue, and an active student."""
    make_release(image_sizes=((64, 64), (128, 64)))
    variant = make_variant(slug="red-vase", text="a red vase")
    make_embedding(variant=variant)
    return variant


def error(answer, status: int, code: str, param: str | None = None) -> dict[str, Any]:
    """Assert that the answer is this error and return it."""
    assert answer.status_code == status, answer.content
    assert answer["Content-Type"] == "application/json"
    (name, body), *others = answer.json().items()
    assert (name, others) == ("error", [])
    assert set(body) >= {"message", "type", "param", "code"}
    assert (body["code"], body["param"]) == (code, param), body
    assert body["message"]
    return body


def unfinished(answer) -> Job:
    """Return the job of an answer without a shell, which does not wait."""
    error(answer, 503, "job_unfinished")
    return Job.objects.get(id=answer["X-Job-Id"])


# --- accepted requests ----------------------------------------------------------------------------
def test_every_parameter_reaches_the_job():
    requested = {
        "model": "student", "n": 3, "size": "128x64", "seed": 7, "output_format": "webp", "response_format": "url",
        "quality": "standard", "background": "opaque", "moderation": "low", "output_compression": 100, "user": "u-1",
        "safety_identifier": "s-1", "stream": False, "partial_images": 0, "match": False,
    }  # fmt: skip

    job = unfinished(API().post(PATH, {**BODY, **requested}))

    assert (job.variant.slug, job.release.name, job.n, job.seed) == ("red-vase", "student-1", 3, 7)
    assert (job.width, job.height, job.output_format, job.via) == (128, 64, "webp", "openai")
    assert job.api_key is not None and job.base_url == "http://testserver/"


def test_missing_and_null_parameters_get_the_default():
    nothing = dict.fromkeys(
        ("model", "n", "size", "seed", "output_format", "response_format", "quality", "style", "background",
         "moderation", "output_compression", "user", "stream", "partial_images", "variant", "negative_prompt"),
    )  # fmt: skip

    for requested in (BODY, {**BODY, **nothing}, {**BODY, "size": "auto", "quality": "auto"}):
        job = unfinished(API().post(PATH, requested))
        assert (job.n, job.width, job.height, job.output_format) == (1, 64, 64, "png")


@pytest.mark.parametrize("prompt", [{}, {"prompt": None}, {"prompt": ""}, {"prompt": "  "}])
def test_a_variant_may_be_given_instead_of_a_prompt(prompt: dict):
    assert (
        unfinished(API().post(PATH, {"variant": "red-vase", **prompt})).variant.slug == "red-vase"
    )


# --- refused requests -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("style", "vivid"), ("quality", "hd"), ("quality", "high"), ("background", "transparent"),
        ("moderation", "high"), ("output_compression", 80), ("negative_prompt", "blue"), ("guidance_scale", 7.5),
        ("num_inference_steps", 50), ("svg", {}), ("frame_count", 3), ("partial_images", 1),
    ],
)  # fmt: skip
def test_an_unsupported_parameter_is_refused_by_name(parameter: str, value):
    answer = API().post(PATH, {**BODY, parameter: value})

    body = error(answer, 400, "unsupported_parameter", parameter)
    assert body["type"] == "invalid_request_error"
    assert answer["x-should-retry"] == "false"
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    ("requested", "parameter"),
    [
        ({"n": 0}, "n"), ({"n": 11}, "n"), ({"n": "two"}, "n"), ({"size": "big"}, "size"), ({"size": "32x32"}, "size"),
        ({"output_format": "gif"}, "output_format"), ({"response_format": "file"}, "response_format"),
        ({"seed": -1}, "seed"), ({"seed": 2**32 - 1, "n": 2}, "seed"), ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": "x" * 32_001}, "prompt"), ({"output_compression": 101}, "output_compression"),
        ({"partial_images": 4, "stream": True}, "partial_images"), ({"stream": "perhaps"}, "stream"),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_type_is_refused_by_name(requested: dict, parameter: str):
    error(API().post(PATH, {**BODY, **requested}), 400, "invalid_request", parameter)


@pytest.mark.parametrize(
    ("requested", "parameter"),
    [
        ({"variant": "red-vase"}, "variant"),
        ({"stream": True, "n": 2}, "n"),
        ({"stream": True, "response_format": "url"}, "response_format"),
    ],
)
def test_contradicting_parameters_are_refused_by_name(requested: dict, parameter: str):
    error(API().post(PATH, {**BODY, **requested}), 400, "unsupported_parameter", parameter)


@pytest.mark.parametrize(
    ("requested", "code", "parameter"),
    [
        ({"prompt": "nobody wrote this", "match": False}, "variant_not_found", "prompt"),
        ({"prompt": None, "variant": "nobody"}, "variant_not_found", "variant"),
        ({"model": "gpt-image-2"}, "release_not_available", "model"),
    ],
)
def test_an_unknown_model_or_prompt_is_a_bad_request(requested: dict, code: str, parameter: str):
    error(API().post(PATH, {**BODY, **requested}), 400, code, parameter)


# --- errors in OpenAI's form ----------------------------------------------------------------------
def test_every_refusal_on_these_routes_has_openais_format():
    api, anonymous = API(), Client()
    json = {"content_type": "application/json"}

    assert (
        error(anonymous.get("/v1/models"), 401, "not_authenticated")["type"]
        == "authentication_error"
    )
    answer = API(scopes=["jobs:read"]).post(PATH, BODY)
    assert error(answer, 403, "permission_denied")["type"] == "permission_error"
    error(api.get("/v1/models/nothing"), 404, "not_found")
    error(anonymous.get(f"{PATH}/x"), 404, "not_found")
    answer = api.get(PATH)
    error(answer, 405, "method_not_allowed")
    assert answer["Allow"] == "POST, OPTIONS"
    error(api.get("/v1/models", headers={"Accept": "text/html"}), 406, "not_acceptable")
    error(
        api._client.post(PATH, "prompt=x", content_type="text/plain"), 415, "unsupported_media_type"
    )
    error(api._client.post(PATH, "{", **json), 400, "parse_error")
    error(api._client.post(PATH, b" " * 3_000_000, **json), 413, "body_too_large")
    error(api.post(f"{PATH}?x=1", BODY), 400, "unsupported_parameter", "x")
    error(anonymous.get("/v1/models", headers={"Host": "a b"}), 400, "bad_request")


def test_a_server_error_has_openais_format_and_is_not_retried(monkeypatch):
    def fault(*_: object, **__: object) -> None:
        raise RuntimeError("secret insides")

    monkeypatch.setattr(submission, "submit", fault)

    answer = API().post(PATH, BODY)

    assert error(answer, 500, "internal_error")["type"] == "server_error"
    assert (answer["x-should-retry"], b"secret" in answer.content) == ("false", False)
    assert answer["X-Request-Id"]


def test_other_routes_answer_with_problem_documents():
    for path in ("/v1/images/edits", "/v1/chat/completions", "/v1/models/retort/x/y/z"):
        assert Client().get(path)["Content-Type"] == "application/problem+json", path


def test_a_retryable_refusal_has_a_retry_after():
    make_variant(slug="brand-new", text="a brand new cup")

    answer = API().post(PATH, {"variant": "brand-new"})

    error(answer, 409, "variant_not_encoded", "variant")
    assert (answer["x-should-retry"], int(answer["Retry-After"]) >= 1) == ("true", True)


# --- the same request again -----------------------------------------------------------------------
def again(api: API, count: int | str, body: Any = BODY):
    return api.post(PATH, body, headers={"x-stainless-retry-count": str(count)})


def test_a_retry_gets_the_first_job_and_a_first_request_a_new_one():
    api = API()
    first = unfinished(again(api, 0))

    assert unfinished(again(api, 1)) == first
    assert unfinished(again(api, 2, {"prompt": "a red vase"})) == first
    assert unfinished(again(api, 0)) != first
    assert unfinished(again(api, 1, {**BODY, "n": 2})).n == 2
    assert unfinished(again(api, "x")) != first


def test_the_retry_of_a_refused_request_does_not_get_the_job_of_an_earlier_one(monkeypatch):
    api = API()
    first = unfinished(again(api, 0))

    def refuse(*_: object) -> None:
        raise QueueFull("The queue is full.")

    with monkeypatch.context() as patch:
        patch.setattr(submission, "submit", refuse)
        error(again(api, 0), 503, "queue_full")

    assert unfinished(again(api, 1)) != first


def test_a_retry_does_not_get_the_job_of_another_owner():
    first = unfinished(again(API(), 0))

    assert unfinished(again(API(owner=make_user(username="stranger")), 1)) != first


def test_a_retry_of_a_failed_or_deleted_job_creates_a_new_one():
    api = API()
    for fields in ({"status": "failed"}, {"status": "canceled"}):
        first = unfinished(again(api, 0))
        Job.objects.filter(id=first.id).update(finished_at=first.created_at, **fields)
        assert unfinished(again(api, 1)) != first


def test_a_retry_finds_its_first_request_for_as_long_as_a_client_may_take():
    api = API()
    first = unfinished(again(api, 0))
    rows = IdempotencyKey.objects.filter(job=first)

    rows.update(created_at=timezone.now() - timedelta(seconds=890))
    assert unfinished(again(api, 1)) == first
    rows.update(created_at=timezone.now() - timedelta(seconds=890))
    assert unfinished(again(api, 2)) == first  # counted from the previous retry
    rows.update(created_at=timezone.now() - timedelta(seconds=910))
    assert unfinished(again(api, 2)) != first


def test_an_idempotency_key_belongs_to_its_route():
    api = API()
    header = {"headers": {"Idempotency-Key": "k"}}
    first = unfinished(api.post(PATH, BODY, **header))

    assert unfinished(api.post(PATH, BODY, **header)) == first
    assert api.post("/v1/jobs", {"variant": "red-vase"}, **header).json()["id"] != str(first.id)
    error(
        api.post(PATH, {**BODY, "n": 2}, **header),
        400,
        "idempotency_key_reused",
        "Idempotency-Key",
    )


def test_a_purged_job_under_an_idempotency_key_is_reported_as_purged():
    api = API()
    header = {"headers": {"Idempotency-Key": "k"}}
    job = unfinished(api.post(PATH, BODY, **header))
    Job.objects.filter(id=job.id).update(
        status="succeeded", finished_at=job.created_at, purged_at=job.created_at
    )

    error(api.post(PATH, BODY, **header), 410, "job_purged")


# --- the answer -----------------------------------------------------------------------------------
def test_the_answer_to_a_matched_text_has_the_text_of_its_variant():
    api = API()
    header = {"headers": {"Idempotency-Key": "k"}}
    job = unfinished(api.post(PATH, BODY, **header))
    Job.objects.filter(id=job.id).update(asked_text="a crimson vase", match_score=0.97)
    make_pictures()

    (image,) = api.post(PATH, BODY, **header).json()["data"]

    assert image["revised_prompt"] == "a red vase"
    assert "b64_json" in image


def test_a_missing_file_is_reported_as_gone():
    api = API()
    header = {"headers": {"Idempotency-Key": "k"}}
    job = unfinished(api.post(PATH, BODY, **header))
    make_pictures()
    Image.objects.filter(job=job).update(
        file="images/00/nothing.png", master="images/00/nothing.png"
    )

    error(api.post(PATH, BODY, **header), 410, "image_gone")


@pytest.mark.parametrize("fault", ["not mounted", "unreadable"])
def test_while_the_storage_fails_no_file_is_reported_as_gone(settings, fault):
    api = API()
    header = {"headers": {"Idempotency-Key": "k"}}
    unfinished(api.post(PATH, BODY, **header))
    make_pictures()
    break_storage(settings.MEDIA_ROOT, fault, Image.objects.all())

    answer = api.post(PATH, BODY, **header)

    error(answer, 503, "storage_failed")
    assert "Retry-After" in answer and answer.get("x-should-retry") != "false"


def test_the_internal_route_of_the_shell_is_closed_to_clients():
    job = make_job(status="succeeded")
    make_image(job=job)

    answer = API().get(PATH, {"job": str(job.id), "response_format": "url"})

    error(answer, 405, "method_not_allowed")


# --- models ---------------------------------------------------------------------------------------
def test_models_are_the_releases_in_service():
    make_release(name="teacher-1", kind="teacher")
    make_release(name="next", status="candidate")
    api = API(scopes=["jobs:read"])

    listed = api.get("/v1/models").json()

    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == [
        "student",
        "teacher",
        "student-1",
        "teacher-1",
    ]
    for model in listed["data"]:
        assert api.get(f"/v1/models/{model['id']}").json() == model
        assert (model["object"], model["owned_by"]) == ("model", "retort")
    assert api.get("/v1/models/next").status_code == 200  # a valid value of `model`
