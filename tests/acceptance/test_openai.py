"""OpenAI's API through the whole stack: the official client, and the commands of docs/api.md."""

import base64
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from openai import OpenAI
from PIL import Image

from tests.acceptance.stack import ROOT, Stack, wait_for

pytestmark = [pytest.mark.acceptance, pytest.mark.slow]

WORDS = "a red glass vase on a wooden table"


@pytest.fixture
def client(stack: Stack) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{stack.run['base_url']}/v1", api_key=stack.run["api_key"]) as client:
        yield client


def picture(content: bytes | str) -> Image.Image:
    content = base64.b64decode(content) if isinstance(content, str) else content
    return Image.open(io.BytesIO(content)).convert("RGB")


def test_images_are_returned_inline_or_as_links_and_equal_those_of_other_routes(
    stack: Stack, client: OpenAI, variants: list[str]
):
    fields = {"prompt": WORDS, "model": "quick", "n": 2, "extra_body": {"seed": 88_001}}

    answer = client.images.generate(**fields)
    linked = client.images.generate(**fields, response_format="url")

    pictures = [picture(image.b64_json) for image in answer.data]
    assert pictures[0].tobytes() != pictures[1].tobytes()
    assert answer.size == "{}x{}".format(*pictures[0].size)
    for image, link in zip(pictures, linked.data, strict=True):
        assert picture(httpx.get(link.url).content).tobytes() == image.tobytes()
    # The starter's tokenizer counts the eight words and at least two markers.
    assert answer.usage.input_tokens >= len(WORDS.split()) + 2
    assert answer.usage.output_tokens == 2 * pictures[0].width * pictures[0].height // 64
    job = stack.ended(
        [stack.submit(text=WORDS, model="quick", seed=88_001, n=2, output_format="png")["id"]]
    )[0]
    assert job["cache"] == "hit"


def test_a_stream_has_partial_images_and_then_the_image(client: OpenAI, variants: list[str]):
    stream = client.images.generate(
        prompt="", model="slow", stream=True, partial_images=3,
        extra_body={"variant": variants[3], "seed": 88_002},
    )  # fmt: skip

    seen = list(stream)

    names = [event.type.removeprefix("image_generation.") for event in seen]
    assert names == ["partial_image"] * (len(seen) - 1) + ["completed"]
    assert 1 <= len(seen) - 1 <= 3
    assert [event.partial_image_index for event in seen[:-1]] == list(range(len(seen) - 1))
    whole = picture(seen[-1].b64_json)
    assert seen[-1].size == "{}x{}".format(*whole.size)
    for event in seen[:-1]:
        assert picture(event.b64_json).tobytes() != whole.tobytes()


def test_a_client_that_retries_after_a_timeout_gets_its_first_job(
    stack: Stack, client: OpenAI, variants: list[str]
):
    """One picture of the slow release takes longer than the client's timeout."""
    hurried = client.with_options(timeout=1, max_retries=20)

    raw = hurried.images.with_raw_response.generate(
        prompt="", model="slow", extra_body={"variant": variants[4], "seed": 88_003}
    )

    rows = stack.query("SELECT id::text FROM generation_job WHERE seed = 88003")
    assert [row["id"] for row in rows] == [raw.headers["x-job-id"]]
    assert raw.parse().data[0].b64_json


def test_canceling_the_job_by_another_route_ends_the_request(
    stack: Stack, client: OpenAI, variants: list[str]
):
    def cancel() -> None:
        rows = "SELECT id::text FROM generation_job WHERE seed = 88004"
        found = wait_for(lambda: stack.query(rows), "the job is there")
        httpx.post(
            f"{stack.run['base_url']}/v1/jobs/{found[0]['id']}/cancel",
            headers={"Authorization": f"Bearer {client.api_key}"},
        ).raise_for_status()

    canceling = threading.Thread(target=cancel)
    canceling.start()
    started = time.monotonic()
    with pytest.raises(openai.ConflictError) as caught:
        client.images.generate(
            prompt="", model="slow", extra_body={"variant": variants[5], "seed": 88_004}
        )
    canceling.join()

    assert caught.value.code == "canceled_by_client"
    assert time.monotonic() - started < 20


def test_a_matched_text_is_answered_with_the_revised_prompt(client: OpenAI, variants: list[str]):
    def look() -> str | None:
        try:
            answer = client.images.generate(
                prompt="a glass vase in red on the wooden table", model="quick"
            )
        except openai.InternalServerError as error:
            assert error.code in ("encoder_busy", "encoder_unavailable")
            return None  # the encode worker is starting
        return answer.data[0].revised_prompt

    assert wait_for(look, "the encode worker answers") == WORDS


def test_models_are_listed_and_unsupported_parameters_refused(client: OpenAI, variants: list[str]):
    assert {"student", "teacher"} <= {model.id for model in client.models.list()}
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(prompt=WORDS, quality="hd")
    assert caught.value.param == "quality"


def blocks(language: str) -> list[str]:
    """Return the code blocks of the section OpenAI of docs/api.md."""
    text = (ROOT / "docs" / "api.md").read_text()
    section = text.split("\n## OpenAI\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def test_the_examples_in_the_document_work(stack: Stack, variants: list[str], tmp_path: Path):
    env = {**os.environ, "URL": stack.run["base_url"], "KEY": stack.run["api_key"]}
    run = {"cwd": tmp_path, "env": env, "capture_output": True, "text": True, "timeout": 100}
    (python,), (shell,) = blocks("python"), blocks("sh")

    shown = subprocess.run([sys.executable, "-c", python], **run)
    assert shown.returncode == 0, shown.stderr
    assert "image_generation.completed 256x256" in shown.stdout
    assert picture((tmp_path / "vase.png").read_bytes()).size == (256, 256)

    called = subprocess.run(["bash", "-euc", shell], **run)
    assert called.returncode == 0, called.stderr + called.stdout
    assert picture(httpx.get(json.loads(called.stdout)["data"][0]["url"]).content)
