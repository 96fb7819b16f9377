"""Benchmarks of the API: request rates, latency besides the engine's, a thousand waiting clients, a million rows.

make bench-api                              # about six minutes on two idle cores
make bench-api ARGS="latency waiting"       # some parts; rates, latency, mixed, stock, waiting, rows
"""

import argparse
import asyncio
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from tqdm import tqdm

from tests.acceptance.stack import ROOT, Stack, wait_for
from tests.bench import stack as stacks
from tests.bench.processes import memory

PARTS = ("rates", "latency", "mixed", "stock", "waiting", "rows")
STUDENT = ROOT / "generation" / "starter" / "student-3"
ROUNDS = 3
JOBS = 300
TEACHERS = 8
STOCKED = 100
WAITING = 1000
ROWS = 1_000_000
SET_UP = "import django; django.setup()"


def say(text: str) -> None:
    print(text, flush=True)


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


# --- rates ----------------------------------------------------------------------------------------
def rates(stack: Stack, slug: str) -> dict[str, float]:
    """Return the answered requests per second over four kept connections, the worker frozen, beside the shell alone."""
    stored = stack.ended([stack.submit(variant=slug, seed=77)["id"]])[0]
    offset = [3_000_000]

    def submit(client: stacks.Client, number: int) -> None:
        client("POST", "/v1/jobs", {"variant": slug, "seed": offset[0] + number})

    def hit(client: stacks.Client, _number: int) -> None:
        assert client("POST", "/v1/jobs", {"variant": slug, "seed": 77})["cache"] == "hit"

    def poll(client: stacks.Client, _number: int) -> None:
        client("GET", f"/v1/jobs/{stored['id']}")

    def alone(client: stacks.Client, _number: int) -> None:
        client("GET", "/health/live")

    calls = {"the shell alone": alone, "submissions": submit, "cached hits": hit, "polls": poll}
    found: dict[str, list[float]] = {name: [] for name in calls}
    pid = stack.pid("generation-1")
    os.kill(pid, signal.SIGSTOP)
    try:
        for turn in tqdm(range(ROUNDS), desc="rates, in turns", leave=False, disable=None):
            offset[0] = 3_000_000 + 10_000_000 * turn
            for name, call in calls.items():
                found[name].append(stacks.requests_per_second(stack, call))
            _drop_queue(stack)
    finally:
        os.kill(pid, signal.SIGCONT)
    say(
        f"\nRequests a second, 4 connections, one web process, load generator on the same cores, median of {ROUNDS}"
    )
    medians = {name: statistics.median(values) for name, values in found.items()}
    for name, value in medians.items():
        say(
            f"  {name:<20} {value:7.0f}   {value / medians['the shell alone']:.2f} of the shell alone"
        )
    return medians


def _drop_queue(stack: Stack) -> None:
    stack.query(
        "UPDATE generation_job SET status = 'canceled', finished_at = now() WHERE status = 'queued' RETURNING 1"
    )


# --- latency --------------------------------------------------------------------------------------
def latency(stack: Stack, slug: str) -> dict[str, float]:
    """Return the milliseconds from POST with Prefer: wait to the finished job, without those for device and files."""
    client = stacks.Client(stack)
    client.headers["Prefer"] = "wait=30"
    around, whole = [], []
    for seed in tqdm(range(JOBS + 20), desc="one job after another", leave=False, disable=None):
        job = client("POST", "/v1/jobs", {"variant": slug, "seed": 1_000_000 + seed})
        span = client.seconds
        assert job["status"] == "succeeded" and job["cache"] == "miss", job
        own = job["metrics"]["device_seconds"] + job["metrics"]["encode_seconds"]
        whole.append(1000 * span)
        around.append(1000 * (span - own))
    around, whole = around[20:], whole[20:]
    found = {
        "p50_ms": percentile(around, 0.5),
        "p99_ms": percentile(around, 0.99),
        "whole_p50_ms": percentile(whole, 0.5),
        "whole_p99_ms": percentile(whole, 0.99),
    }
    say(f"\nPOST with Prefer: wait to the finished image, {JOBS} jobs one after another")
    say(
        f"  whole               p50 {found['whole_p50_ms']:6.1f} ms, p99 {found['whole_p99_ms']:6.1f} ms"
    )
    say(f"  less device, files  p50 {found['p50_ms']:6.1f} ms, p99 {found['p99_ms']:6.1f} ms")
    return found


# --- mixed ----------------------------------------------------------------------------------------
def mixed(stack: Stack, slug: str) -> dict[str, float]:
    """Return the milliseconds of a student's picture while the same worker makes pictures of the teacher."""
    stack.ended([stack.submit(variant=slug, seed=1, model="teacher")["id"]])  # it is loaded
    slow = [stack.submit(variant=slug, seed=10 + k, model="teacher")["id"] for k in range(TEACHERS)]
    client = stacks.Client(stack)
    client.headers["Prefer"] = "wait=90"
    spans = []
    for seed in tqdm(range(JOBS), desc="beside a teacher", leave=False, disable=None):
        if all(stack.job(job_id)["status"] == "succeeded" for job_id in slow[-1:]):
            break
        job = client("POST", "/v1/jobs", {"variant": slug, "seed": 5_000_000 + seed})
        assert job["status"] == "succeeded", job
        spans.append(1000 * client.seconds)
        time.sleep(0.1)
    each = [job["metrics"]["device_seconds"] for job in stack.ended(slow)]
    found = {
        "teacher_seconds": statistics.median(each),
        "pictures": len(spans),
        "p50_ms": percentile(spans, 0.5),
        "p99_ms": percentile(spans, 0.99),
    }
    say(f"\n{len(spans)} student's pictures while a teacher makes {TEACHERS}, one worker")
    say(f"  a teacher's picture takes {found['teacher_seconds']:.2f} s of the device")
    say(f"  a student's whole   p50 {found['p50_ms']:6.1f} ms, p99 {found['p99_ms']:6.1f} ms")
    return found


# --- stock ----------------------------------------------------------------------------------------
def stocked(stack: Stack, slug: str) -> dict[str, float]:
    """Return the milliseconds from POST with Prefer: wait and without a seed to an image of the stock."""
    client = stacks.Client(stack)
    client.headers["Prefer"] = "wait=30"
    for _ in range(3):  # it is requested often
        client("POST", "/v1/jobs", {"variant": slug})

    def is_full() -> bool:
        (row,) = stack.query("SELECT count(*) AS images FROM generation_stockedimage")
        return row["images"] >= STOCKED

    wait_for(is_full, "the stock is full")
    worker = stack.pid("generation-1")
    os.kill(worker, signal.SIGSTOP)  # it would fill the stock again on the same cores
    try:
        spans = []
        for _ in range(STOCKED):
            job = client("POST", "/v1/jobs", {"variant": slug})
            assert job["status"] == "succeeded" and job["cache"] == "hit", job
            spans.append(1000 * client.seconds)
    finally:
        os.kill(worker, signal.SIGCONT)
    found = {"p50_ms": percentile(spans, 0.5), "p99_ms": percentile(spans, 0.99)}
    say(f"\nPOST with Prefer: wait, without a seed, {STOCKED} images of the stock")
    say(f"  whole               p50 {found['p50_ms']:6.1f} ms, p99 {found['p99_ms']:6.1f} ms")
    return found


# --- waiting --------------------------------------------------------------------------------------
def waiting(stack: Stack, slug: str) -> dict[str, Any]:
    """Return figures of a thousand clients that wait for a job each on one web process, until the worker starts."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4 * WAITING), hard))
    web, worker = psutil.Process(stack.pid("web")), stack.pid("generation-1")
    resting = memory(web.pid).resident
    os.kill(worker, signal.SIGSTOP)
    try:
        ids = [stack.submit(variant=slug, seed=4_000_000 + k)["id"] for k in range(WAITING)]
        found = asyncio.run(_wait_for_all(stack, ids, web, worker, resting))
    finally:
        os.kill(worker, signal.SIGCONT)
    say(f"\n{WAITING} clients wait at once, a job each, on one web process")
    say(
        f"  answered {found['answered']}, {found['bytes_each'] / 1024:.1f} KiB each, threads {found['threads']}"
    )
    say(
        f"  from a job's end to its answer p50 {found['p50_ms']:.1f} ms, p99 {found['p99_ms']:.1f} ms"
    )
    return found


async def _wait_for_all(
    stack: Stack, ids: list[str], web: psutil.Process, worker: int, resting: int
) -> dict[str, Any]:
    address = urlsplit(stack.run["base_url"])
    held = 0

    async def client(job_id: str) -> float | None:
        """Return the milliseconds from the job's end to the answer."""
        nonlocal held
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(
            f"GET /v1/jobs/{job_id}?wait=60 HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n"
            f"Authorization: Bearer {stack.run['api_key']}\r\n\r\n".encode()
        )
        held += 1
        answer = await reader.read()
        received = time.time()
        writer.close()
        job = json.loads(answer.partition(b"\r\n\r\n")[2])
        if job["status"] != "succeeded":
            return None
        return 1000 * (received - datetime.fromisoformat(job["finished_at"]).timestamp())

    clients = [asyncio.create_task(client(job_id)) for job_id in ids]
    while held < len(ids):
        await asyncio.sleep(0.1)
    await asyncio.sleep(5)  # every request has reached Django once
    each = (memory(web.pid).resident - resting) / len(ids)
    threads = web.num_threads()
    os.kill(worker, signal.SIGCONT)
    spans = [span for span in await asyncio.gather(*clients) if span is not None]
    return {
        "answered": len(spans),
        "bytes_each": each,
        "threads": threads,
        "p50_ms": percentile(spans, 0.5),
        "p99_ms": percentile(spans, 0.99),
    }


# --- rows -----------------------------------------------------------------------------------------
def rows(stack: Stack, slug: str, count: int) -> dict[str, Any]:
    """Return times of claim, position and lists with few rows and with a million more."""
    worker = stack.pid("generation-1")
    stack.ended([stack.submit(variant=slug, seed=99)["id"]])
    os.kill(worker, signal.SIGSTOP)  # it would claim jobs that must stay queued
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"{SET_UP}; from tests.bench import rows; rows.main({count})"],
            cwd=ROOT,
            env=stack.manage_env()
            | {"LOG_LEVEL": "ERROR", "DJANGO_SETTINGS_MODULE": "project.settings"},
            capture_output=True,
            text=True,
        )
    finally:
        os.kill(worker, signal.SIGKILL)  # it is started again; the rows are deleted with the stack
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    found = json.loads(done.stdout.splitlines()[-1])
    say(
        f"\nWith 1,000 rows of jobs and with {count:,} more (written in {found['fill_seconds']:.0f} s)"
    )
    for name, before in found["before"].items():
        after = found["after"][name]
        say(
            f"  {name:<18} {before['ms']:7.2f} → {after['ms']:7.2f} ms, blocks {before['blocks']} → {after['blocks']}"
        )
        say(f"  {'':<18} {', '.join(after['ways'])}")
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.api",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--rows", type=int, default=ROWS, help=f"default: {ROWS}")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    options = parser.parse_args(arguments)
    parts = options.parts or list(PARTS)
    if unknown := sorted(set(parts) - set(PARTS)):
        parser.error(f"unknown parts: {', '.join(unknown)}. There are {', '.join(PARTS)}.")
    say(f"{psutil.cpu_count()} cores. Starting a stack …")
    if (load := psutil.getloadavg()[0]) > 0.5:
        say(f"This machine is not idle: its load average of the last minute is {load:.1f}.")
    figures: dict[str, Any] = {}
    stock = {"STOCK": str(STOCKED)} if "stock" in parts else {}
    with stacks.serving(STUDENT, MAX_QUEUED_JOBS="0", **stock) as stack:
        slug = stacks.variant(stack)
        wait_for(lambda: stack.submit(variant=slug, seed=1)["cache"] == "hit", "a first picture")
        if "latency" in parts:
            figures["latency"] = latency(stack, slug)
        if "mixed" in parts:
            figures["mixed"] = mixed(stack, slug)
        if "stock" in parts:
            figures["stock"] = stocked(stack, slug)
        if "rates" in parts:
            figures["rates"] = rates(stack, slug)
        if "waiting" in parts:
            figures["waiting"] = waiting(stack, slug)
        if "rows" in parts:
            figures["rows"] = rows(stack, slug, options.rows)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
        say(f"\nThe figures are in {options.json}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
