"""The first benchmark: engine alone, whole stack, latency around the engine, submissions. One run prints all of it.

Ratios are taken side by side, in turns, as the median of several rounds: machines are noisy.
"""

import http.client
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from tqdm import tqdm

from tests.acceptance.stack import Stack
from tests.tiny import make_tiny_release

ROUNDS = 3
TEACHER = "starter-teacher"
IMAGES = 32  # per round, engine and stack alike
IDLE_JOBS = 150
SUBMIT_SECONDS = 5.0


def engine(stack: Stack, batch: int, count: int) -> float:
    """Images a second of the engine alone, files included, loading not."""
    out = tempfile.mkdtemp()
    printed = stack.manage(
        "generate", "--release", TEACHER, "--variant", variant(stack), "--batch", str(batch),
        "--count", str(count), "--out", out, "--json",
    )  # fmt: skip
    shutil.rmtree(out)
    figures = json.loads(printed)
    return 1 / sum(figures[f"{part}_seconds_per_image"] for part in ("unet", "decoder", "file"))


def variant(stack: Stack) -> str:
    return stack.http.get("/v1/variants", params={"limit": 1}).json()["results"][0]["slug"]


def saturated(stack: Stack, seed: int) -> float:
    """Images a second through the whole stack while the queue is never empty: first claim to last commit.

    A first job keeps the worker busy while the others queue up; it is not counted.
    """
    slug = variant(stack)
    stack.submit(variant=slug, model=TEACHER, seed=seed + IMAGES, n=8)
    asked = {"variant": slug, "model": TEACHER}
    ids = [stack.submit(**asked, seed=seed + index)["id"] for index in range(IMAGES)]
    while True:
        time.sleep(0.5)  # whoever looks more often takes the cores that are measured
        row = stack.query(
            "SELECT count(finished_at) AS ended, extract(epoch FROM max(finished_at) - min(started_at)) AS s"
            " FROM generation_job WHERE id = ANY(%s::uuid[])",
            ids,
        )[0]
        if row["ended"] == IMAGES:
            return IMAGES / float(row["s"])


class Client:
    """A kept connection that costs little itself."""

    def __init__(self, stack: Stack) -> None:
        address = urlsplit(stack.run["base_url"])
        self._connection = http.client.HTTPConnection(address.hostname or "", address.port)
        self._headers = {
            "Authorization": f"Bearer {stack.run['api_key']}",
            "Content-Type": "application/json",
        }

    def __call__(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body)
        self._connection.request(method, path, data, self._headers)
        answer = self._connection.getresponse()
        content = json.loads(answer.read() or b"{}")
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path} was answered with {answer.status}: {content}")
        return content


def around_the_engine(stack: Stack) -> list[float]:
    """Milliseconds from POST to the finished answer, less the device's time, one job at a time."""
    slug = variant(stack)
    client = Client(stack)
    spans = []
    for seed in tqdm(range(IDLE_JOBS), desc="idle latency", leave=False, disable=None):
        asked = {"variant": slug, "model": "quick", "seed": 1_000_000 + seed}
        started = time.perf_counter()
        job = client("POST", "/v1/jobs", asked)
        while job["status"] not in ("succeeded", "failed"):
            job = client("GET", f"/v1/jobs/{job['id']}?wait=30")
        spans.append(1000 * (time.perf_counter() - started - job["metrics"]["device_seconds"]))
    return spans[10:]


def requests_per_second(
    stack: Stack, call: Callable[[Client, int], None], threads: int = 4
) -> float:
    """Answered requests a second over kept connections."""
    done = [0] * threads
    until = time.monotonic() + SUBMIT_SECONDS

    def work(number: int) -> None:
        client = Client(stack)
        while time.monotonic() < until:
            call(client, number * 1_000_000 + done[number])
            done[number] += 1

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(done) / SUBMIT_SECONDS


def submissions(stack: Stack) -> tuple[float, float]:
    """Submissions a second, and a bare Django view's (/health/live) beside it, with the worker frozen."""
    slug = variant(stack)

    def submit(client: Client, seed: int) -> None:
        client("POST", "/v1/jobs", {"variant": slug, "model": "quick", "seed": 2_000_000 + seed})

    def bare(client: Client, _seed: int) -> None:
        client("GET", "/health/live")

    pid = stack.pid("generation-1")
    os.kill(pid, signal.SIGSTOP)
    try:
        return requests_per_second(stack, submit), requests_per_second(stack, bare)
    finally:
        stack.query(
            "UPDATE generation_job SET status = 'canceled', finished_at = now() WHERE status = 'queued' RETURNING id"
        )
        os.kill(pid, signal.SIGCONT)


def say(text: str) -> None:
    print(text, flush=True)


def main() -> int:
    home = Path(tempfile.mkdtemp(prefix="retort-bench-"))
    say(
        f"{psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB. Starting a stack of its own …"
    )
    stack = Stack(home, workers=1, env={"LOG_LEVEL": "WARNING"})
    try:
        make_tiny_release(home / "quick", name="quick", kind="student", steps=4)
        stack.manage("release", "register", str(home / "quick"))
        stack.manage("catalogue", "encode")
        measure(stack)
    finally:
        stack.stop()
        shutil.rmtree(home, ignore_errors=True)
    return 0


def measure(stack: Stack) -> None:
    saturated(stack, 10_000)  # warm
    say(f"\nEngine alone ({TEACHER}, files included)")
    for batch in (1, 4, 8):
        say(f"  batch {batch}: {engine(stack, batch, 2 * batch if batch > 1 else 6):6.2f} images/s")
    alone, whole = [], []
    for turn in tqdm(range(ROUNDS), desc="saturation, in turns", leave=False, disable=None):
        alone.append(engine(stack, 8, IMAGES))
        whole.append(saturated(stack, 20_000 + 1000 * turn))
    ratio = statistics.median(w / a for w, a in zip(whole, alone, strict=True))
    say(f"\nWhole stack at saturation, batches of 8, median of {ROUNDS} rounds in turns")
    say(
        f"  stack {statistics.median(whole):.2f} images/s, engine {statistics.median(alone):.2f}: ratio {ratio:.3f}"
    )
    spans = sorted(around_the_engine(stack))
    say(f"\nPOST to finished less the device's time, idle, {len(spans)} jobs one after another")
    say(f"  p50 {statistics.median(spans):.1f} ms, p99 {spans[int(0.99 * len(spans))]:.1f} ms")
    submitted, bare = submissions(stack)
    say("\nSubmissions, 4 connections, one web process, load generator on the same cores")
    say(
        f"  {submitted:.0f} jobs/s; a bare Django view beside it {bare:.0f}/s: ratio {submitted / bare:.2f}"
    )


if __name__ == "__main__":
    sys.exit(main())
