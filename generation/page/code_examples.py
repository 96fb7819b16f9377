"""Code examples, for curl and Python, that create the same job over the API."""

import json
import shlex
from typing import Any

from django.http import HttpRequest
from django.urls import reverse

from generation.page.presentation import Shown

WAIT_SECONDS = 60

CURL = """\
curl --silent --show-error --fail-with-body {url} \\
  --header 'Authorization: Bearer rt_…' --header 'Prefer: wait={wait}' \\
  --header 'Content-Type: application/json' --data {body}"""

PYTHON = """\
import httpx

api = httpx.Client(headers={{"Authorization": "Bearer rt_…"}}, timeout=90)
answer = api.post(
    "{url}",
    json={body},
    headers={{"Prefer": "wait={wait}"}},
)
answer.raise_for_status()
for image in answer.json()["images"]:
    with open(f"{slug}-{{image['seed']}}.{{image['format']}}", "wb") as file:
        file.write(httpx.get(image["url"], follow_redirects=True).content)"""


def body(shown: Shown) -> dict[str, Any]:
    """Return the body of a request for the job."""
    settings: dict[str, Any] = {**shown.settings, "seed": shown.job.seed, "n": shown.job.n}
    if settings["n"] == 1:
        del settings["n"]
    if settings["output_format"] == "webp":
        del settings["output_format"]
    return settings


def of(shown: Shown, request: HttpRequest) -> list[tuple[str, str]]:
    """Return (language, code) pairs."""
    url = request.build_absolute_uri(reverse("jobs"))
    sent = body(shown)
    curl = CURL.format(url=shlex.quote(url), body=shlex.quote(json.dumps(sent)), wait=WAIT_SECONDS)
    written = json.dumps(sent, indent=4, ensure_ascii=False).replace("\n", "\n    ")
    python = PYTHON.format(url=url, body=written, slug=shown.job.variant.slug, wait=WAIT_SECONDS)
    return [("curl", curl), ("Python", python)]
