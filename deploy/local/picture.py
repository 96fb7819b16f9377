"""Generation of one picture over REST, with a progress bar: for `make demo` and the start of `make run`."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from deploy.local.api import API
from deploy.local.errors import APIError, LocalError

FORMATS = {".webp": "webp", ".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg"}
FIRST_TEXT = "a red glass vase on a wooden table"
ENCODING_SECONDS = 600  # wait for a prompt variant without an embedding
JOB_SECONDS = 600


@dataclass(frozen=True)
class Picture:
    path: Path
    link: str
    text: str
    seed: int
    seconds: float


def make(
    api: API,
    *,
    text: str | None,
    seed: int | None,
    out: Path,
    on_poll: Callable[[], None] = lambda: None,
) -> Picture:
    """Submit a job, wait for it and store its picture. out: a folder, or a file whose suffix determines the format.

    text: text or slug of a prompt variant; None = FIRST_TEXT, or else the first variant of the catalogue.
    on_poll: called about once a second while waiting. Raises LocalError.
    """
    output_format = FORMATS.get(out.suffix.lower())
    if out.suffix and not output_format and not out.is_dir():
        raise LocalError(
            f"OUT={out}: the name of a file must end in {', '.join(FORMATS)}. Choose another name."
        )
    began = time.monotonic()
    wanted: dict[str, Any] = {"output_format": output_format or "webp"}
    if text is None:
        wanted["variant"] = _first_variant(api)
    elif _is_slug(api, text):
        wanted["variant"] = text
    else:
        wanted["text"] = text
    if seed is not None:
        wanted["seed"] = seed
    with _bar() as bar:
        job = _submit(api, wanted, bar, on_poll)
        job = _follow(api, job, bar, on_poll)
    if job["status"] != "succeeded":
        error = job.get("error") or {}
        raise LocalError(
            f"The job {job['status']}: {error.get('detail') or error.get('code') or job['id']}"
        )
    image = job["images"][0]
    if not output_format:
        out = out / f"{job['variant']}-{image['seed']}.webp"
    content = api.download(image["url"])
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(content)
    except OSError as error:
        raise LocalError(
            f"OUT={out} cannot be written: {error.strerror}. Choose another path."
        ) from error
    return Picture(
        out.absolute(),
        image["url"],
        job.get("text") or job["variant"],
        image["seed"],
        time.monotonic() - began,
    )


def _first_variant(api: API) -> str:
    """Return the slug of FIRST_TEXT, which the shipped student covers, or of the first prompt variant."""
    variants = (
        api.get("/v1/variants", q=FIRST_TEXT, limit=1)["results"]
        or api.get("/v1/variants", limit=1)["results"]
    )
    if not variants:
        raise LocalError(
            "The catalogue is empty. Import one: python manage.py catalogue import FILE"
        )
    return str(variants[0]["slug"])


def _is_slug(api: API, text: str) -> bool:
    if " " in text:
        return False
    try:
        api.get(f"/v1/variants/{text}")
    except APIError:
        return False
    return True


NOT_YET = ("variant_not_encoded", "encoder_busy", "encoder_unavailable")


def _submit(
    api: API, wanted: dict[str, Any], bar: tqdm, on_poll: Callable[[], None]
) -> dict[str, Any]:
    deadline = time.monotonic() + ENCODING_SECONDS
    while True:
        try:
            return dict(api.post("/v1/jobs", wanted))
        except APIError as error:
            if error.code not in NOT_YET or time.monotonic() > deadline:
                raise
            _show(bar, "encoding the prompt")
            on_poll()
            time.sleep(1)


def _follow(
    api: API, job: dict[str, Any], bar: tqdm, on_poll: Callable[[], None]
) -> dict[str, Any]:
    deadline = time.monotonic() + JOB_SECONDS
    while True:
        done = 100 if job["status"] == "succeeded" else job.get("progress") or 0
        _show(bar, f"job {job['status']}", done)
        if job["status"] in ("succeeded", "failed", "canceled"):
            return job
        if time.monotonic() > deadline:
            raise LocalError(f"The job is still {job['status']} after {JOB_SECONDS} s.")
        on_poll()
        # Short waits, to show the progress; a finished job is answered at once.
        job = dict(api.get(f"/v1/jobs/{job['id']}", wait=1))


def _bar() -> tqdm:
    layout = "{desc} {percentage:3.0f}% |{bar}| {elapsed}"
    pause = 0.1 if sys.stderr.isatty() else 10  # seconds between updates
    return tqdm(total=100, bar_format=layout, mininterval=pause)


def _show(bar: tqdm, step: str, per_cent: int = 0) -> None:
    bar.set_description_str(step, refresh=False)
    bar.update(per_cent - bar.n)
