"""One picture over REST with a progress bar: what `make demo` does and `make run` begins with."""

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
ENCODING_SECONDS = (
    600  # of a prompt variant whose embedding did not come with the release that is served
)
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
    on_look: Callable[[], None] = lambda: None,
) -> Picture:
    """Submit a job, wait for it, store its picture. out: a folder, or a file whose ending chooses the format.

    text: of a prompt variant, or its slug; None takes FIRST_TEXT, or the first of the catalogue.
    on_look: called about once a second while waiting. Raises LocalError.
    """
    output_format = FORMATS.get(out.suffix.lower())
    if out.suffix and not output_format and not out.is_dir():
        raise LocalError(f"OUT={out}: the name of a file must end in {', '.join(FORMATS)}.")
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
    with _Bar() as bar:
        job = _submit(api, wanted, bar, on_look)
        job = _follow(api, job, bar, on_look)
    if job["status"] != "succeeded":
        error = job.get("error") or {}
        raise LocalError(
            f"The job {job['status']}: {error.get('detail') or error.get('code') or job['id']}"
        )
    image = job["images"][0]
    if not output_format:
        out.mkdir(parents=True, exist_ok=True)
        out = out / f"{job['variant']}-{image['seed']}.webp"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(api.download(image["url"]))
    return Picture(
        out.absolute(),
        image["url"],
        job.get("text") or job["variant"],
        image["seed"],
        time.monotonic() - began,
    )


def suggestions(api: API, text: str, count: int = 5) -> list[str]:
    """Texts of the catalogue that share words with `text`, else any."""
    found: dict[str, int] = {}
    for word in {word for word in text.lower().split() if len(word) > 2}:
        for variant in api.get("/v1/variants", q=word, limit=50)["results"]:
            found[variant["text"]] = found.get(variant["text"], 0) + 1
    if not found:
        found = {variant["text"]: 0 for variant in api.get("/v1/variants", limit=count)["results"]}
    return sorted(found, key=lambda known: (-found[known], known))[:count]


def _first_variant(api: API) -> str:
    """The one that shows the shipped student well, if the catalogue has it."""
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
    api: API, wanted: dict[str, Any], bar: "_Bar", on_look: Callable[[], None]
) -> dict[str, Any]:
    deadline = time.monotonic() + ENCODING_SECONDS
    while True:
        try:
            return dict(api.post("/v1/jobs", wanted))
        except APIError as error:
            # The same code stands for "not yet" and for "tried, and failed".
            waiting = error.code in NOT_YET
            if not waiting or time.monotonic() > deadline:
                raise
            bar.waiting("encoding the prompt")
            on_look()
            time.sleep(min(error.retry_after or 1, 1))


def _follow(
    api: API, job: dict[str, Any], bar: "_Bar", on_look: Callable[[], None]
) -> dict[str, Any]:
    deadline = time.monotonic() + JOB_SECONDS
    while True:
        bar.show(job["status"], job.get("progress") or 0)
        if job["status"] in ("succeeded", "failed", "canceled"):
            return job
        if time.monotonic() > deadline:
            raise LocalError(f"The job is still {job['status']} after {JOB_SECONDS} s.")
        on_look()
        # Short waits while it runs, for the bar's sake; the end is answered at once in any case.
        job = dict(api.get(f"/v1/jobs/{job['id']}", wait=1))


class _Bar:
    """A bar in a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self._bar = (
            tqdm(
                total=100,
                unit="%",
                bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed}",
                file=sys.stderr,
            )
            if sys.stderr.isatty()
            else None
        )
        self._last = ""

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def waiting(self, reason: str) -> None:
        self._line(reason, reason + " …", lambda bar: bar.refresh())

    def show(self, status: str, per_cent: int) -> None:
        done = 100 if status == "succeeded" else per_cent

        def move(bar: Any) -> None:
            bar.n = done
            bar.refresh()

        self._line(f"job {status}", f"job {status}, {done} %", move)

    def _line(self, description: str, plain: str, move: Callable[[Any], None]) -> None:
        if self._bar is not None:
            self._bar.set_description_str(description, refresh=False)
            move(self._bar)
        elif plain != self._last:
            print(plain, file=sys.stderr, flush=True)
        self._last = plain
