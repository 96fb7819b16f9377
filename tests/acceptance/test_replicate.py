"""Replicate's API through the whole stack: the official client, curl, and the commands of docs/api.md."""

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import replicate
from PIL import Image
from replicate.exceptions import ReplicateError

from tests.acceptance.stack import ROOT, Stack

pytestmark = [pytest.mark.acceptance, pytest.mark.slow]

WORDS = "a red glass vase on a wooden table"


@pytest.fixture
def client(stack: Stack) -> Iterator[replicate.Client]:
    client = replicate.Client(api_token=stack.run["api_key"], base_url=stack.run["base_url"])
    client.poll_interval = 0.1
    yield client
    client._client.close()  # there is no public method


def picture(link: str) -> Image.Image:
    return Image.open(io.BytesIO(httpx.get(link).raise_for_status().content))


def test_run_makes_images_and_a_repeated_seed_is_answered_from_the_cache(
    client: replicate.Client, variants: list[str]
):
    fields = {"prompt": WORDS, "seed": 77_001, "num_outputs": 2, "output_format": "png"}

    links = client.run("retort/quick", input=fields)
    again = client.run("retort/quick", input=fields)

    first, second = map(picture, links)
    assert first.format == "PNG" and first.tobytes() != second.tobytes()
    assert [picture(link).tobytes() for link in again] == [first.tobytes(), second.tobytes()]
    assert client.predictions.list()[0].metrics["predict_time"] == 0


def test_a_version_is_run_and_named_in_the_prediction(
    client: replicate.Client, variants: list[str]
):
    version = client.models.get("retort/quick").latest_version

    prediction = client.predictions.create(version=version, input={"variant": variants[0]}, wait=30)

    assert (prediction.status, prediction.version) == ("succeeded", version.id)
    assert picture(prediction.output[0]).format == "WEBP"
    assert client.run(f"retort/quick:{version.id}", input=prediction.input)


def test_a_prediction_can_be_polled_and_streamed(client: replicate.Client, variants: list[str]):
    prediction = client.predictions.create("retort/slow", {"variant": variants[0]})
    assert prediction.status == "starting"

    events = list(prediction.stream())
    prediction.wait()

    assert (prediction.status, prediction.progress.percentage) == ("succeeded", 1)
    names = [event.event.value for event in events]
    assert names[-2:] == ["output", "done"] and set(names[:-2]) <= {"logs"}
    assert picture(str(events[-2])).size == picture(prediction.output[0]).size


def test_a_running_prediction_is_canceled(client: replicate.Client, variants: list[str]):
    prediction = client.predictions.create("retort/slow", {"variant": variants[0]})
    while prediction.status == "starting":
        prediction.reload()

    prediction.cancel()

    assert (prediction.status, prediction.output) == ("canceled", None)
    assert client.predictions.cancel(prediction.id).status == "canceled"
    assert client.predictions.list()[0].id == prediction.id


def test_refused_and_unknown_predictions_raise_errors(client: replicate.Client):
    with pytest.raises(ReplicateError, match="num_inference_steps"):
        client.run("retort/student", input={"prompt": WORDS, "num_inference_steps": 4})
    with pytest.raises(ReplicateError, match="404"):
        client.predictions.get("00000000-0000-4000-8000-000000000000")


def test_two_puts_with_one_id_are_one_job(stack: Stack, variants: list[str]):
    body = {"version": "retort/quick", "input": {"variant": variants[0]}}
    path = "/v1/predictions/twice-and-more"

    first = stack.http.put(path, json=body, headers={"Prefer": "wait"})
    again = stack.http.put(path, json=body)
    other = stack.http.put(path, json={**body, "input": {"variant": variants[1]}})

    assert (first.status_code, first.json()["status"]) == (201, "succeeded")
    assert (again.status_code, again.json()["job"]) == (201, first.json()["job"])
    assert first.json()["id"] == "twice-and-more"
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    rows = stack.query(
        "SELECT count(*) AS n FROM generation_job WHERE external_id = %s", "twice-and-more"
    )
    assert rows[0]["n"] == 1


def blocks(language: str) -> list[str]:
    """Return the code blocks of the section Replicate of docs/api.md."""
    text = (ROOT / "docs" / "api.md").read_text()
    section = text.split("\n## Replicate\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def test_the_examples_in_the_document_work(stack: Stack, variants: list[str], tmp_path: Path):
    env = {**os.environ, "URL": stack.run["base_url"], "KEY": stack.run["api_key"]}
    run = {"cwd": tmp_path, "env": env, "capture_output": True, "text": True, "timeout": 100}
    (python,), (shell,) = blocks("python"), blocks("sh")

    shown = subprocess.run([sys.executable, "-c", python], **run)
    assert shown.returncode == 0, shown.stderr
    assert picture(shown.stdout.strip())

    called = subprocess.run(["bash", "-euc", shell], **run)
    assert called.returncode == 0, called.stderr + called.stdout
    assert called.stdout.count('"status":"succeeded"') >= 2
