"""The whole stack with the student: images per second beside the engine alone, latency, submissions, memory.

Ratios are medians of several rounds in turns, because machines are noisy.
"""

import json
import os
import re
import shutil
import signal
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from tqdm import tqdm

from generation.engine import release
from tests.acceptance.stack import Stack, wait_for
from tests.bench.processes import memory

BATCH = 8
IMAGES = 128  # per round, engine and stack alike
IDLE_JOBS = 150
SUBMIT_SECONDS = 5.0
Say = Callable[[str], None]


@contextmanager
def serving(student: Path, **environment: str) -> Iterator[Stack]:
    """Run a stack whose only generation worker serves the student, and the teacher for what it does not cover."""
    home = Path(tempfile.mkdtemp(prefix="retort-bench-"))
    stack = Stack(home, workers=1, env={"LOG_LEVEL": "WARNING", **environment})
    try:
        name = release.read(student).name
        known = {
            row["name"]: row["status"] for row in stack.http.get("/v1/releases").json()["results"]
        }
        if name not in known:
            stack.manage("release", "register", str(student))
        if known.get(name) != "active":
            stack.manage("release", "activate", name)
            _restart_worker(stack)
            wait_for(stack.workers_alive, "the worker is ready")
        wait_for(lambda: _holds_all(stack), "the worker has loaded what is served")
        yield stack
    finally:
        stack.stop()
        shutil.rmtree(home, ignore_errors=True)


def _holds_all(stack: Stack) -> bool:
    """Return whether the worker has loaded all active releases."""
    (row,) = stack.query(
        "SELECT loaded::bigint[] @> array(SELECT id FROM generation_release WHERE status = 'active') AS all"
        " FROM generation_worker WHERE queue = 'generation' ORDER BY started_at DESC LIMIT 1"
    )
    return row["all"]


def _restart_worker(stack: Stack) -> None:
    """Restart the worker, so that it holds only releases that it serves now. It may not be ready yet."""
    before = stack.pid("generation-1")
    os.kill(before, signal.SIGTERM)
    wait_for(lambda: stack.pid("generation-1") != before, "the worker is started again")


def measure(stack: Stack, *, student: str, rounds: int, say: Say) -> dict[str, Any]:
    """Print and return everything. student: the name of the active student."""
    slug = variant(stack)
    saturated(stack, slug, 10_000)  # warm
    say(f"\nEngine alone ({student}, files included)")
    batches = {}
    for batch in (1, 4, BATCH):
        batches[batch] = engine(stack, slug, batch, 8 * batch)
        say(f"  batch {batch}: {batches[batch]:7.2f} images/s")
    alone, whole = [], []
    for turn in tqdm(range(rounds), desc="saturation, in turns", leave=False, disable=None):
        alone.append(engine(stack, slug, BATCH, IMAGES))
        whole.append(saturated(stack, slug, 20_000 + 1000 * turn))
    ratio = statistics.median(w / a for w, a in zip(whole, alone, strict=True))
    say(f"\nWhole stack at saturation, batches of {BATCH}, median of {rounds} rounds in turns")
    say(
        f"  stack {statistics.median(whole):.2f} images/s, engine {statistics.median(alone):.2f}: ratio {ratio:.3f}"
    )
    spans = sorted(around_the_engine(stack, slug))
    p50, p99 = statistics.median(spans), spans[int(0.99 * len(spans))]
    say(f"\nPOST to finished less the device's time, idle, {len(spans)} jobs one after another")
    say(f"  p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    submitted, shell = submissions(stack, slug)
    say("\nSubmissions, 4 connections, one web process, load generator on the same cores")
    say(f"  {submitted:.0f} jobs/s; the shell alone {shell:.0f}/s: ratio {submitted / shell:.3f}")
    return {
        "engine_images_per_second": batches,
        "stack_images_per_second": statistics.median(whole),
        "engine_images_per_second_beside": statistics.median(alone),
        "stack_to_engine": ratio,
        "around_the_engine_ms": {"p50": p50, "p99": p99},
        "submissions_per_second": submitted,
        "shell_alone_per_second": shell,
    }


def memories(stack: Stack, say: Say) -> dict[str, Any]:
    """Return the resident memory of the stack's processes after they have made pictures of the student."""
    _make_pictures(stack, variant(stack), 5_000)
    say("\nResident memory of the stack's processes, whose worker has loaded student and teacher")
    found = {}
    for name in ("generation-1", "web", "encode", "webhooks", "light", "beat"):
        seen = memory(stack.pid(name))
        found[name] = seen.plain()
        say(f"  {name:<16} {seen}")
    return found


def _make_pictures(stack: Stack, slug: str, seed: int) -> None:
    """Make two batches of pictures, with seeds from `seed` on."""
    stack.ended([stack.submit(variant=slug, seed=seed + row)["id"] for row in range(2 * BATCH)])


def student_alone(stack: Stack, say: Say) -> dict[str, Any]:
    """Restart the worker while the teacher's queue is paused, so that it loads the student alone.

    Return the seconds from the start of its process to the end of the first job, and its resident memory after
    further pictures.
    """
    slug = variant(stack)
    stack.manage("queues", "pause", "reference")
    _restart_worker(stack)
    (job,) = stack.ended([stack.submit(variant=slug, seed=7_000)["id"]])
    pid = stack.pid("generation-1")
    (row,) = stack.query(
        "SELECT extract(epoch FROM finished_at)::float AS s FROM generation_job WHERE id = %s",
        job["id"],
    )
    seconds = row["s"] - psutil.Process(pid).create_time()
    _make_pictures(stack, slug, 7_100)
    seen = memory(pid)
    stack.manage("queues", "resume", "reference")
    say("\nA generation worker that serves the student alone (queue reference paused)")
    say(f"  start of the process to the first picture {seconds:.1f} s, resident memory {seen}")
    return {"seconds_to_first_picture": seconds, "memory": seen.plain()}


def variant(stack: Stack) -> str:
    """Return a slug that the student covers."""
    (row,) = stack.query(
        "SELECT coverage.slug FROM generation_release release"
        " LEFT JOIN generation_coverage coverage ON coverage.release_id = release.id"
        " WHERE release.kind = 'student' AND release.status = 'active' ORDER BY coverage.id LIMIT 1"
    )
    return (
        row["slug"]
        or stack.http.get("/v1/variants", params={"limit": 1}).json()["results"][0]["slug"]
    )


def engine(stack: Stack, slug: str, batch: int, count: int) -> float:
    """Return the images per second of the engine alone, with files, without loading."""
    out = tempfile.mkdtemp()
    printed = stack.manage(
        "generate", "--release", "student", "--variant", slug, "--batch", str(batch),
        "--count", str(count), "--out", out, "--json",
    )  # fmt: skip
    shutil.rmtree(out)
    figures = json.loads(printed)
    return 1 / sum(figures[f"{part}_seconds_per_image"] for part in ("unet", "decoder", "file"))


def saturated(stack: Stack, slug: str, seed: int) -> float:
    """Return the images per second of the whole stack with a full queue, from the first claim to the last commit.

    The worker is frozen while the jobs are submitted: it would be faster than the client.
    """
    pid = stack.pid("generation-1")
    os.kill(pid, signal.SIGSTOP)
    try:
        ids = [stack.submit(variant=slug, seed=seed + index)["id"] for index in range(IMAGES)]
    finally:
        os.kill(pid, signal.SIGCONT)
    while True:
        time.sleep(0.5)  # more frequent queries would use the measured cores
        row = stack.query(
            "SELECT count(finished_at) AS ended, extract(epoch FROM max(finished_at) - min(started_at)) AS s"
            " FROM generation_job WHERE id = ANY(%s::uuid[])",
            ids,
        )[0]
        if row["ended"] == IMAGES:
            return IMAGES / float(row["s"])


class Client:
    """A kept connection with little overhead."""

    def __init__(self, stack: Stack) -> None:
        address = urlsplit(stack.run["base_url"])
        self._socket = socket.create_connection((address.hostname, address.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.headers = {
            "Host": address.netloc,
            "Authorization": f"Bearer {stack.run['api_key']}",
            "Content-Type": "application/json",
        }
        self.seconds = 0.0  # from the last request's first byte to its answer's last

    def __call__(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        data = b"" if body is None else json.dumps(body).encode()
        fields = {**self.headers, "Content-Length": str(len(data))}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        request = f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + data
        started = time.perf_counter()
        self._socket.sendall(request)
        head, content = self._answer()
        self.seconds = time.perf_counter() - started
        status = int(head.split(b" ", 2)[1])
        if status >= 400:
            raise RuntimeError(f"{method} {path} was answered with {status}: {content!r}")
        return json.loads(content or b"{}")

    def _answer(self) -> tuple[bytes, bytes]:
        """Return head and body. Content-Length is the length of the body."""
        received, end, length = b"", -1, 0
        while end < 0 or len(received) < end + 4 + length:
            part = self._socket.recv(65536)
            if not part:
                raise RuntimeError("The server closed the connection.")
            received += part
            if end < 0 and (end := received.find(b"\r\n\r\n")) >= 0:
                found = re.search(rb"(?i)\r\ncontent-length: (\d+)", received[:end])
                length = int(found[1]) if found else 0
        return received[:end], received[end + 4 :]


def around_the_engine(stack: Stack, slug: str) -> list[float]:
    """Return the milliseconds from POST to the finished answer without the device's time, one job at a time."""
    client = Client(stack)
    spans = []
    for seed in tqdm(range(IDLE_JOBS), desc="idle latency", leave=False, disable=None):
        body = {"variant": slug, "seed": 1_000_000 + seed}
        started = time.perf_counter()
        job = client("POST", "/v1/jobs", body)
        while job["status"] not in ("succeeded", "failed"):
            job = client("GET", f"/v1/jobs/{job['id']}?wait=30")
        spans.append(1000 * (time.perf_counter() - started - job["metrics"]["device_seconds"]))
    return spans[10:]


def requests_per_second(
    stack: Stack, call: Callable[[Client, int], None], threads: int = 4
) -> float:
    """Return the answered requests per second over kept connections."""
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


def submissions(stack: Stack, slug: str) -> tuple[float, float]:
    """Return submissions and answers of the shell alone (/health/live) per second, with the worker frozen."""

    def submit(client: Client, seed: int) -> None:
        client("POST", "/v1/jobs", {"variant": slug, "seed": 2_000_000 + seed})

    def alone(client: Client, _seed: int) -> None:
        client("GET", "/health/live")

    pid = stack.pid("generation-1")
    os.kill(pid, signal.SIGSTOP)
    try:
        return requests_per_second(stack, submit), requests_per_second(stack, alone)
    finally:
        stack.query(
            "UPDATE generation_job SET status = 'canceled', finished_at = now() WHERE status = 'queued' RETURNING id"
        )
        os.kill(pid, signal.SIGCONT)
