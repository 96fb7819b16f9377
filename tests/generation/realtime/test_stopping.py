"""A web process that stops while clients wait, watch and generate with OpenAI's client."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from openai import OpenAI

from generation.models import Job
from tests.factories import DEFAULT_TEXT, make_job, make_key
from tests.generation.realtime.test_hub import waited
from tests.generation.realtime.test_sse import Watching
from tests.web import Web, eventually


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_the_process_stops_at_once_answers_waiting_clients_and_ends_streams_without_an_end_event(
    tmp_path: Path, transactional_db, redis_server, number: int
):
    """OpenAI's client gets the error that says that the job continues."""
    plain = make_key()[1]
    key = {"Authorization": f"Bearer {plain}"}
    jobs = [make_job(seed=seed) for seed in range(30)]
    web = Web(tmp_path)
    client = OpenAI(base_url=f"{web.url}/v1", api_key=plain, max_retries=0)
    watching = [Watching(web, job, key) for job in jobs[20:]]
    with client, ThreadPoolExecutor(22) as threads:
        answers = [threads.submit(waited, web, job, key, 50) for job in jobs[:20]]
        generated = threads.submit(client.images.generate, prompt=DEFAULT_TEXT)
        for one in watching:
            one.has(1)
        eventually(lambda: Job.objects.count() == len(jobs) + 1)  # the job of OpenAI's client
        time.sleep(1)

        stopping = threads.submit(web.stop, number)

        for one in watching:
            one.end(3)
        assert stopping.result() < 4
        for answer in answers:
            response, _ = answer.result()
            assert (response.status_code, response.json()["status"]) == (200, "queued")
        with pytest.raises(openai.InternalServerError) as caught:
            generated.result()
    assert (caught.value.status_code, caught.value.code) == (503, "job_unfinished")
    for one in watching:
        assert one.names == ["snapshot"]
        assert one.is_whole
