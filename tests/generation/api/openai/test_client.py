"""The official `openai` client, unmodified, against the web process under uvicorn."""

import asyncio
import base64
import io
import time
from collections.abc import Callable, Iterator
from functools import partial

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from PIL import Image as Picture

from generation.jobs import lifecycle as jobs
from generation.models import Job
from tests.factories import make_embedding, make_key, make_release, make_variant
from tests.fake_worker import (
    COLOR,
    fail,
    in_background,
    make_pictures,
    show_previews_then_pictures,
)
from tests.web import Web

PROMPT = "a red vase"


def picture(content: bytes | str) -> Picture.Image:
    content = base64.b64decode(content) if isinstance(content, str) else content
    return Picture.open(io.BytesIO(content))


@pytest.fixture
def short_wait_web(transactional_db, tmp_path_factory) -> Iterator[Web]:
    """Start a web process that ends the wait of its clients after half a second."""
    web = Web(tmp_path_factory.mktemp("hurried"), OPENAI_WAIT_SECONDS="0.5")
    yield web
    web.stop()


@pytest.fixture
def key(transactional_db, redis_server) -> str:
    """A key with all scopes, and a red vase in the catalogue."""
    make_release()
    make_embedding(variant=make_variant(slug="red-vase", text=PROMPT))
    return make_key()[1]


def connected(web: Web, key: str, **options) -> OpenAI:
    return OpenAI(base_url=f"{web.url}/v1", api_key=key, **options)


@pytest.fixture
def client(web: Web, key: str, settings) -> Iterator[OpenAI]:
    settings.MEDIA_ROOT = web.log.parent / "media"
    with connected(web, key) as client:
        yield client


@pytest.fixture
def meanwhile() -> Iterator[Callable[..., None]]:
    with in_background() as begin:
        yield begin


# --- images ---------------------------------------------------------------------------------------
def test_images_come_as_base64(client: OpenAI, meanwhile):
    meanwhile(make_pictures, after=0.3)

    answer = client.images.generate(prompt=PROMPT, n=2, size="auto", quality="auto")

    assert len(answer.data) == 2
    for image in answer.data:
        shown = picture(image.b64_json)
        assert (shown.format, shown.size, shown.getpixel((0, 0))) == ("PNG", (64, 64), COLOR)
        assert (image.url, image.revised_prompt) == (None, None)
    assert abs(answer.created - time.time()) < 10
    assert (answer.size, answer.quality) == ("64x64", "auto")
    assert (answer.output_format, answer.background) == ("png", "opaque")
    assert answer.usage.input_tokens == 3  # words are counted: no release here has a tokenizer
    assert answer.usage.output_tokens == 2 * 8 * 8
    assert answer.usage.total_tokens == 3 + 128
    assert Job.objects.get().via == "openai"


def test_images_come_as_links_that_need_no_key(client: OpenAI, meanwhile):
    meanwhile(make_pictures)

    answer = client.images.generate(
        prompt=PROMPT, model="student", response_format="url", output_format="webp"
    )

    (image,) = answer.data
    assert image.b64_json is None
    file = httpx.get(image.url)
    assert (file.headers["content-type"], picture(file.content).size) == ("image/webp", (64, 64))


def test_a_stored_picture_is_answered_at_once(client: OpenAI, meanwhile):
    meanwhile(make_pictures)
    first = client.images.generate(prompt=PROMPT, extra_body={"seed": 7})

    again = client.images.generate(prompt="", extra_body={"seed": 7, "variant": "red-vase"})

    assert again.data == first.data
    assert {job.cache for job in Job.objects.all()} == {"miss", "hit"}


def test_the_answer_has_the_id_of_the_job_in_a_header(web: Web, client: OpenAI, meanwhile):
    meanwhile(make_pictures)

    raw = client.images.with_raw_response.generate(prompt=PROMPT)

    job = web.http.get(
        f"/v1/jobs/{raw.headers['x-job-id']}", headers={"Authorization": f"Bearer {client.api_key}"}
    ).json()
    assert (job["status"], job["text"]) == ("succeeded", PROMPT)
    assert raw.parse()._request_id == raw.headers["x-request-id"]
    assert raw.headers["x-request-id"] in web.log.read_text()


def test_the_asynchronous_client_works_too(web: Web, client: OpenAI, meanwhile):
    meanwhile(make_pictures)

    async def scenario() -> str:
        async with AsyncOpenAI(base_url=f"{web.url}/v1", api_key=client.api_key) as other:
            return (await other.images.generate(prompt=PROMPT)).data[0].b64_json

    assert picture(asyncio.run(scenario())).size == (64, 64)


# --- models ---------------------------------------------------------------------------------------
def test_models_are_the_releases_in_service_and_their_kinds(client: OpenAI):
    models = {model.id: model for model in client.models.list()}

    assert set(models) == {"student", "student-1"}
    assert abs(models["student"].created - time.time()) < 60
    assert client.models.retrieve("student-1") == models["student-1"]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-image-2.5")


# --- errors ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fields", "parameter", "code"),
    [
        ({"background": "transparent"}, "background", "unsupported_parameter"),
        ({"size": "1024x1024"}, "size", "invalid_request"),
        ({"model": "gpt-image-2.5"}, "model", "release_not_available"),
        ({"prompt": "nobody wrote this"}, "prompt", "variant_not_found"),
        ({"extra_body": {"guidance_scale": 7.5}}, "guidance_scale", "unsupported_parameter"),
    ],
)
def test_an_unsupported_value_is_a_bad_request_that_names_the_parameter(
    client: OpenAI, fields: dict, parameter: str, code: str
):
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(**{"prompt": PROMPT, **fields})

    error = caught.value
    assert (error.param, error.code, error.type) == (parameter, code, "invalid_request_error")
    assert error.request_id
    assert not Job.objects.exists()


def test_an_invalid_key_is_an_authentication_error(web: Web, key: str):
    with (
        connected(web, "rt_nobody_x") as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.models.list()

    assert caught.value.code == "authentication_failed"


def test_a_key_without_the_scope_is_a_permission_error(web: Web, key: str):
    with (
        connected(web, make_key(scopes=["jobs:read"])[1]) as client,
        pytest.raises(openai.PermissionDeniedError),
    ):
        client.images.generate(prompt=PROMPT)


def test_too_many_requests_are_a_rate_limit_error_after_the_clients_retries(web: Web, key):
    plain = make_key(requests_per_minute=1)[1]
    with connected(web, plain, max_retries=0) as client:
        client.models.list()
        with pytest.raises(openai.RateLimitError) as caught:
            client.models.list()

    assert (caught.value.code, caught.value.type) == ("rate_limited", "rate_limit_error")
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 120
    assert caught.value.response.headers["x-should-retry"] == "true"


def test_a_used_up_quota_is_not_retried(web: Web, key: str):
    with (
        connected(web, make_key(images_per_day=1)[1]) as client,
        pytest.raises(openai.RateLimitError) as caught,
    ):
        client.images.generate(prompt=PROMPT, n=2)

    assert caught.value.code == "quota_exceeded"
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert caught.value.response.request.headers["x-stainless-retry-count"] == "0"


def test_a_failed_job_is_an_error_with_its_code_and_is_not_retried(client: OpenAI, meanwhile):
    meanwhile(fail, after=0.3)

    with pytest.raises(openai.InternalServerError) as caught:
        client.images.generate(prompt=PROMPT)

    assert (caught.value.code, caught.value.type) == ("not_finite", "server_error")
    assert Job.objects.count() == 1
    assert not [name for name in caught.value.response.headers if name.startswith("x-retort")]


def test_a_canceled_job_is_a_conflict_that_is_not_retried(client: OpenAI, meanwhile):
    meanwhile(lambda: jobs.cancel(Job.objects.get().id), after=0.3)

    with pytest.raises(openai.ConflictError) as caught:
        client.images.generate(prompt=PROMPT)

    assert caught.value.code == "canceled_by_client"
    assert Job.objects.count() == 1


# --- retries --------------------------------------------------------------------------------------
def test_a_retry_of_the_client_gets_the_first_job(
    short_wait_web: Web, key: str, settings, meanwhile
):
    settings.MEDIA_ROOT = short_wait_web.log.parent / "media"
    meanwhile(make_pictures, after=1)  # by then the first request was answered with 503

    with connected(short_wait_web, key) as client:
        raw = client.images.with_raw_response.generate(prompt=PROMPT)

    assert int(raw.http_request.headers["x-stainless-retry-count"]) >= 1
    assert str(Job.objects.get().id) == raw.headers["x-job-id"]
    assert picture(raw.parse().data[0].b64_json).size == (64, 64)


def test_a_client_that_timed_out_and_retries_gets_the_first_job(
    web: Web, client: OpenAI, meanwhile
):
    meanwhile(make_pictures, after=1.2)

    client.with_options(timeout=0.8, max_retries=60).images.generate(prompt=PROMPT)

    assert Job.objects.count() == 1


@pytest.mark.slow
def test_the_error_after_a_timeout_says_that_the_job_continues(short_wait_web: Web, key: str):
    with (
        connected(short_wait_web, key, max_retries=0) as client,
        pytest.raises(openai.InternalServerError) as caught,
    ):
        client.images.generate(prompt=PROMPT)

    answer = caught.value.response
    assert (answer.status_code, caught.value.code) == (503, "job_unfinished")
    assert (answer.headers["x-should-retry"], answer.headers["retry-after"]) == ("true", "1")
    assert answer.headers["x-job-id"] == str(Job.objects.get().id)
    assert '"level": "error"' not in short_wait_web.log.read_text()


def test_an_idempotency_key_gets_the_same_job_again(client: OpenAI, meanwhile):
    meanwhile(make_pictures)
    header = {"Idempotency-Key": "one-vase"}
    first = client.images.generate(prompt=PROMPT, extra_headers=header)

    assert client.images.generate(prompt=PROMPT, extra_headers=header).data == first.data

    assert Job.objects.count() == 1
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(prompt=PROMPT, n=2, extra_headers=header)
    assert caught.value.code == "idempotency_key_reused"


# --- streams --------------------------------------------------------------------------------------
def test_a_stream_sends_partial_images_and_the_final_one(client: OpenAI, meanwhile):
    meanwhile(partial(show_previews_then_pictures, previews=3), after=0.5)

    seen = list(
        client.images.generate(prompt=PROMPT, stream=True, partial_images=2, output_format="jpeg")
    )

    assert [event.type for event in seen] == [
        "image_generation.partial_image",
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    for index, event in enumerate(seen[:2]):
        assert event.partial_image_index == index
        assert picture(event.b64_json).format.lower() == event.output_format == "webp"
    whole = seen[2]
    assert (picture(whole.b64_json).format, whole.output_format) == ("JPEG", "jpeg")
    assert (whole.size, whole.quality, whole.background) == ("64x64", "auto", "opaque")
    assert whole.usage.total_tokens == 3 + 64
    assert abs(whole.created_at - time.time()) < 10


def test_a_stream_without_partial_images_is_one_event(client: OpenAI, meanwhile):
    meanwhile(partial(show_previews_then_pictures, previews=2), after=0.5)

    (event,) = client.images.generate(prompt=PROMPT, stream=True)

    assert event.type == "image_generation.completed"


def test_a_stream_of_a_stored_picture_is_one_event_at_once(client: OpenAI, meanwhile):
    meanwhile(make_pictures)
    first = client.images.generate(prompt=PROMPT, extra_body={"seed": 7})

    (event,) = client.images.generate(
        prompt=PROMPT, stream=True, partial_images=3, extra_body={"seed": 7}
    )

    assert event.b64_json == first.data[0].b64_json


def test_a_stream_of_a_failing_job_raises_while_it_is_read(client: OpenAI, meanwhile):
    meanwhile(fail, after=0.5)

    stream = client.images.generate(prompt=PROMPT, stream=True, partial_images=1)
    with pytest.raises(openai.APIError, match="not finite") as caught:
        list(stream)

    assert caught.value.code == "not_finite"


def test_an_invalid_request_is_refused_before_the_stream_begins(client: OpenAI):
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(prompt=PROMPT, stream=True, n=2)

    assert caught.value.param == "n"
