"""The official `replicate` client, unmodified, against the web process under uvicorn."""

import asyncio
import io
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
import replicate
from PIL import Image as Picture
from replicate.exceptions import ModelError, ReplicateError
from replicate.pagination import paginate

from generation.infra import notifications
from generation.jobs import lifecycle as jobs
from generation.models import Job
from tests.factories import make_embedding, make_job, make_key, make_release, make_variant
from tests.fake_worker import fail, in_background, make_pictures
from tests.web import Web

INPUT = {"prompt": "a red vase"}


@pytest.fixture
def client(web: Web, transactional_db, redis_server, settings) -> Iterator[replicate.Client]:
    settings.MEDIA_ROOT = web.log.parent / "media"
    make_release()
    make_embedding(variant=make_variant(slug="red-vase", text="a red vase"))
    client = replicate.Client(api_token=make_key()[1], base_url=web.url)
    client.poll_interval = 0.05
    yield client
    client._client.close()  # there is no public method


@pytest.fixture
def meanwhile() -> Iterator[Callable[..., None]]:
    with in_background() as begin:
        yield begin


# --- run ------------------------------------------------------------------------------------------
def test_run_returns_links_to_the_pictures(client: replicate.Client, meanwhile):
    meanwhile(make_pictures)

    output = client.run("retort/student", input=INPUT | {"num_outputs": 2, "output_format": "png"})

    assert len(output) == 2
    picture = Picture.open(io.BytesIO(httpx.get(output[0]).content))
    assert (picture.format, picture.size, picture.getpixel((0, 0))) == (
        "PNG",
        (64, 64),
        (200, 40, 40),
    )
    assert Job.objects.get().via == "replicate"


def test_run_with_a_version_returns_links(client: replicate.Client, meanwhile):
    meanwhile(make_pictures)
    version = client.models.get("retort/student").latest_version

    output = client.run(f"retort/student:{version.id}", input=INPUT)

    assert httpx.get(output[0]).status_code == 200
    assert client.run(version, input=INPUT | {"seed": Job.objects.get().seed})


def test_run_continues_after_the_server_ends_its_wait(client: replicate.Client, meanwhile):
    def slowly() -> None:
        (job,) = jobs.claim("worker-1").jobs
        time.sleep(
            1.5
        )  # running when the server answers: it must be "starting", or the client gives up
        Job.objects.filter(id=job.id).update(status="queued", lease_expires_at=None)
        make_pictures()

    meanwhile(slowly)

    assert len(client.run("retort/student", input=INPUT, wait=1)) == 1


def test_run_polls_when_the_server_does_not_wait(client: replicate.Client, meanwhile):
    meanwhile(make_pictures)

    assert len(client.run("retort/student", input=INPUT, wait=False)) == 1


def test_run_of_a_failing_prediction_raises_with_the_reason(client: replicate.Client, meanwhile):
    meanwhile(fail)

    with pytest.raises(ModelError, match=r"No\.") as raised:
        client.run("retort/student", input=INPUT)

    assert raised.value.prediction.status == "failed"


def test_run_works_in_an_event_loop(client: replicate.Client, meanwhile):
    meanwhile(make_pictures)

    async def scenario() -> list[str]:
        async with client._async_client:
            return await client.async_run("retort/student", input=INPUT)

    assert len(asyncio.run(scenario())) == 1


# --- predictions ----------------------------------------------------------------------------------
def test_a_prediction_is_made_watched_and_waited_for(client: replicate.Client, meanwhile):
    version = client.models.get("retort/student").latest_version
    prediction = client.predictions.create(version=version, input=INPUT | {"seed": 7})
    assert (prediction.status, prediction.output, prediction.progress) == ("starting", None, None)

    (job,) = jobs.claim("worker-1").jobs
    notifications.set_progress([job.id], 50)
    prediction.reload()

    assert (prediction.status, prediction.progress.percentage) == ("processing", 0.5)
    assert (prediction.progress.current, prediction.progress.total) == (2, 4)
    Job.objects.filter(id=job.id).update(status="queued", lease_expires_at=None)
    meanwhile(make_pictures)
    prediction.wait()
    assert (prediction.status, len(prediction.output)) == ("succeeded", 1)
    assert prediction.metrics["predict_time"] >= 0
    assert prediction.input["seed"] == 7
    assert (prediction.version, prediction.model) == (version.id, "retort/student")
    assert client.predictions.get(prediction.id).output == prediction.output


def test_a_prediction_is_made_and_waited_for_in_one_request(client: replicate.Client, meanwhile):
    meanwhile(make_pictures)

    prediction = client.predictions.create("student-1", INPUT, wait=10)

    assert prediction.status == "succeeded"


def test_canceling_a_prediction_may_be_repeated(client: replicate.Client):
    prediction = client.predictions.create("retort/student", INPUT)

    prediction.cancel()
    again = client.predictions.cancel(prediction.id)

    assert (prediction.status, again.status) == ("canceled", "canceled")
    assert prediction.completed_at
    prediction.wait()


def test_the_pages_of_a_list_follow_each_other(client: replicate.Client):
    made = [str(make_job(seed=seed).id) for seed in range(45)]

    pages = list(paginate(client.predictions.list))

    assert [len(page) for page in pages] == [20, 20, 5]
    assert [shown.id for page in pages for shown in page] == made[::-1]
    assert (pages[0].previous, pages[-1].next) == (None, None)


# --- stream ---------------------------------------------------------------------------------------
def test_a_stream_sends_the_links_and_ends(client: replicate.Client, meanwhile):
    meanwhile(make_pictures, after=0.3)

    seen = list(client.stream("retort/student", input=INPUT | {"num_outputs": 2}))

    shown = [event for event in seen if event.event.value != "logs"]
    assert [event.event.value for event in shown] == ["output", "output", "done"]
    assert all(httpx.get(str(event)).status_code == 200 for event in shown[:2])


def test_a_stream_of_an_ended_prediction_ends_at_once(client: replicate.Client):
    prediction = client.predictions.create("retort/student", INPUT, stream=True)
    prediction.cancel()

    (last,) = prediction.stream()

    assert (last.event.value, last.data) == ("done", '{"reason": "canceled"}')


def test_a_stream_of_a_failing_prediction_has_the_reason(client: replicate.Client, meanwhile):
    meanwhile(fail, after=0.3)

    with pytest.raises(RuntimeError, match=r"No\."):
        list(client.stream("retort/student", input=INPUT))


# --- refusals -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("ask", "status", "word"),
    [
        (lambda client: client.predictions.get("unknown"), 404, "not"),
        (lambda client: client.predictions.create("unknown", INPUT), 422, "no version"),
        (lambda client: client.run("retort/student", input={"prompt": "xyzzy"}), 422, "xyzzy"),
        (lambda client: client.run("retort/student", input={"n": 1}), 400, "num_outputs"),
        (lambda client: client.run("someone/sdxl", input=INPUT), 422, "retort/student"),
        (lambda client: client.models.get("someone/sdxl"), 404, "not"),
    ],
)
def test_a_refusal_is_an_error_with_advice(client: replicate.Client, ask, status, word):
    with pytest.raises(ReplicateError) as raised:
        ask(client)

    error = raised.value
    assert error.status == status
    assert error.title and word in error.detail.lower()


def test_an_invalid_key_is_an_error(web: Web, transactional_db):
    unauthorized = replicate.Client(api_token="rt_no_no", base_url=web.url)

    with pytest.raises(ReplicateError, match="key") as raised:
        unauthorized.predictions.list()

    assert raised.value.status == 401
    unauthorized._client.close()
