"""Matching of unknown texts on real processes, with the starter's own text encoder in the encode worker."""

import os
import signal
import time
from typing import Any

import httpx
import pytest

from tests.acceptance.stack import Stack, wait_for

pytestmark = [pytest.mark.acceptance, pytest.mark.slow]

VASE = "a red glass vase on a wooden table"


def post(stack: Stack, text: str, **fields: Any) -> httpx.Response:
    return stack.http.post("/v1/jobs", json={"text": text, **fields})


def post_until_answered(stack: Stack, text: str, **fields: Any) -> httpx.Response:
    """Send the request again while it gets a 503, until the encode worker has started."""

    def look() -> httpx.Response | None:
        answer = post(stack, text, **fields)
        if answer.status_code != 503:
            return answer
        assert answer.json()["code"] in ("encoder_busy", "encoder_unavailable"), answer.text
        assert answer.json()["retryable"] and int(answer.headers["Retry-After"]) >= 1
        return None

    return wait_for(look, "the encode worker answers")


@pytest.mark.parametrize(
    "text",
    [
        "the red glass vase on the wooden table",
        "A wooden table, with a red glass vase!",
        "a vase made of red glass on a wooden table",
        "a red glass vase on a wooden tabel",
    ],
)
def test_a_rewording_of_a_variant_gets_its_picture_and_the_job_names_the_match(
    stack: Stack, variants: list[str], text: str
):
    seed = 15_001
    answer = post_until_answered(stack, text, model="quick", seed=seed)
    assert answer.status_code in (200, 202), answer.text
    job = answer.json()
    assert (job["variant"], job["text"]) == ("red-glass-vase-table", VASE)
    assert job["match"]["asked"] == text and 0.98 <= job["match"]["score"] < 1.01
    own = stack.submit(text=VASE, model="quick", seed=seed)
    done, same = stack.ended([job["id"], own["id"]])
    assert own["match"] is None and done["match"] == job["match"]
    assert done["images"][0]["sha256"] == same["images"][0]["sha256"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("not a red glass vase on a wooden table", "not"),
        ("a red glass vase under a wooden table", "under"),
        ("a red glass vase on a marble slab", "marble"),
        ("a red glass jug on a wooden table", "jug"),
        ("my dog", ""),
        ("supercalifragilisticexpialidocious", "tokens"),
    ],
)
def test_other_texts_are_refused_with_the_three_nearest_variants(
    stack: Stack, variants: list[str], text: str, why: str
):
    answer = post_until_answered(stack, text)
    body = answer.json()
    assert (answer.status_code, body["code"]) == (422, "variant_not_found"), answer.text
    assert why in body["detail"]
    nearest = body["nearest"]
    assert len({near["variant"] for near in nearest}) == 3
    assert [near["score"] for near in nearest] == sorted(
        (near["score"] for near in nearest), reverse=True
    )
    assert stack.submit(variant=nearest[0]["variant"], model="quick")["text"] == nearest[0]["text"]


def test_a_frozen_encode_worker_leads_to_quick_503s_and_a_new_one_matches_again(
    stack: Stack, variants: list[str]
):
    post_until_answered(
        stack, "a red glass vase by the wooden table"
    )  # the encode worker has started
    pid = stack.pid("encode")
    os.kill(pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        answer = post(stack, "the blue clay vase on the wooden table")
        assert answer.status_code == 503, answer.text
        assert answer.json()["code"] in ("encoder_busy", "encoder_unavailable")
        assert int(answer.headers["Retry-After"]) >= 1
        assert time.monotonic() - started < 8
        # Texts of variants, slugs and earlier results need no encode worker.
        assert stack.submit(text=VASE.upper(), model="quick")["match"] is None
        assert stack.submit(variant=variants[0], model="quick")["match"] is None
        known = post(stack, "a red glass vase by the wooden table")
        assert known.status_code == 422, known.text
    finally:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: stack.pid("encode") != pid, "the encode worker was started again")

    answer = post_until_answered(stack, "the blue clay vase on the wooden table", model="quick")

    assert answer.json()["variant"] == "blue-clay-vase-table"
    assert answer.json()["match"]["asked"] == "the blue clay vase on the wooden table"
