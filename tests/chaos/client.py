"""A client of the API that follows its answers: it repeats refused requests and polls until its job has ended."""

import asyncio
import hashlib
import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests import sse
from tests.chaos.log import TERMINAL, ClientLog, Seen

MAX_PAUSE_SECONDS = 3.0  # limits Retry-After, so that the programme never waits for two minutes
REQUEST_SECONDS = 90.0
RETRYABLE_STATUSES = (429, 500, 502, 503, 504)
RETRYABLE_CODES = ("idempotency_in_progress", "variant_not_encoded")


class GaveUp(Exception):
    """The client's deadline passed."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    content: bytes

    def json(self) -> dict[str, Any]:
        try:
            found = json.loads(self.content)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def problem(self) -> dict[str, Any]:
        """Return the error, in OpenAI's form or ours."""
        found = self.json()
        return found["error"] if isinstance(found.get("error"), dict) else found


class Client:
    """One scenario's client. kind: the scenario. until: time.monotonic() at which it gives up."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        key: str,
        *,
        kind: str,
        log: ClientLog,
        until: float,
    ) -> None:
        self.kind = kind
        self._session = session
        self._base_url = base_url
        self._headers = {"Authorization": f"Bearer {key}"}
        self._log = log
        self._until = until

    def note(self, event: str, **facts: Any) -> None:
        self._log.add(Seen(event, self.kind, **facts))

    # --- requests ---------------------------------------------------------------------------------
    async def send(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Return the first answer that is not to be retried. Raises GaveUp."""
        url = path if path.startswith("http") else self._base_url + path
        while True:
            try:
                answer = await self._once(method, url, body, headers or {})
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                self.note("broken", detail=f"{method} {path.partition('?')[0]}: {error!r}"[:200])
                pause = 0.5
            else:
                if answer.status < 400:
                    return answer
                problem = answer.problem()
                code = str(problem.get("code") or "")
                self._refused(method, path, answer, problem)
                again = answer.status in RETRYABLE_STATUSES or code in RETRYABLE_CODES
                if code == "quota_exceeded" or answer.headers.get("x-should-retry") == "false":
                    again = False
                if not again:
                    return answer
                pause = min(float(answer.headers.get("Retry-After") or 1), MAX_PAUSE_SECONDS)
            if time.monotonic() > self._until:
                raise GaveUp(f"{method} {path}")
            await asyncio.sleep(pause * random.uniform(1, 1.3))

    async def _once(self, method: str, url: str, body: Any, headers: Mapping[str, str]) -> Answer:
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        sent = {**self._headers, **headers}
        async with self._session.request(
            method, url, json=body, headers=sent, timeout=timeout, allow_redirects=False
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    def _refused(self, method: str, path: str, answer: Answer, problem: dict[str, Any]) -> None:
        retryable = problem.get("retryable")
        if (word := answer.headers.get("x-should-retry")) is not None:
            retryable = word == "true"
        self.note(
            "refused",
            http=answer.status,
            code=str(problem.get("code") or ""),
            retryable=retryable,
            retry_after=answer.headers.get("Retry-After", ""),
            detail=f"{method} {path.partition('?')[0]}: {problem.get('detail') or problem.get('message')}"[
                :300
            ],
        )

    # --- jobs -------------------------------------------------------------------------------------
    async def submit(
        self, body: dict[str, Any], *, idem: str, wait: int = 0, webhook: bool = False
    ) -> dict[str, Any]:
        """Return the accepted job; {} when it was refused for good."""
        headers = {"Idempotency-Key": idem} | ({"Prefer": f"wait={wait}"} if wait else {})
        answer = await self.send("POST", "/v1/jobs", body=body, headers=headers)
        if answer.status not in (200, 202):
            return {}
        job = answer.json()
        self.accepted(job["id"], idem=idem, n=body.get("n", 1), webhook=webhook)
        self.reported(job)
        return job

    def accepted(self, job_id: str, *, idem: str, n: int = 1, webhook: bool = False) -> None:
        self.note("accepted", job=job_id, idem=idem, n=n, webhook=webhook)

    def reported(self, job: Mapping[str, Any]) -> None:
        images = sorted(job.get("images") or (), key=lambda image: image["index"])
        self.note(
            "reported",
            job=job["id"],
            status=job["status"],
            sha256=tuple(image["sha256"] for image in images),
            code=str((job.get("error") or {}).get("code", "")),
        )

    async def ended(self, job_id: str) -> dict[str, Any]:
        """Return the job when it has ended; {} when it was removed. Raises GaveUp."""
        while True:
            answer = await self.send("GET", f"/v1/jobs/{job_id}?wait=20")
            if answer.status != 200:
                return {}
            job = answer.json()
            if job["status"] in TERMINAL:
                self.reported(job)
                return job
            if time.monotonic() > self._until:
                raise GaveUp(job_id)

    async def watched(self, job_id: str) -> dict[str, Any]:
        """Return the job of the last server-sent event; connect again wherever the stream breaks. Raises GaveUp."""
        last = ""
        while True:
            try:
                async for event in self._events(job_id, last):
                    last = event.id or last
                    if event.name in TERMINAL:
                        job = event.json()
                        self.reported(job)
                        return job
                    if event.name == "problem":
                        last = ""
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                self.note("broken", job=job_id, detail=f"events: {error!r}"[:200])
            if time.monotonic() > self._until:
                raise GaveUp(job_id)
            await asyncio.sleep(0.5)

    async def _events(self, job_id: str, last: str):
        headers = {**self._headers, **({"Last-Event-ID": last} if last else {})}
        timeout = aiohttp.ClientTimeout(total=None, sock_read=REQUEST_SECONDS)
        url = f"{self._base_url}/v1/jobs/{job_id}/events"
        async with self._session.get(url, headers=headers, timeout=timeout) as response:
            if (
                response.status == 204
            ):  # the client has had the last event; a new stream sends it again
                async for event in self._events(job_id, ""):
                    yield event
                return
            if response.status != 200:
                answer = Answer(response.status, response.headers, await response.read())
                self._refused("GET", url, answer, answer.problem())
                return
            lines: list[str] = []
            async for raw in response.content:
                lines.append(raw.decode().rstrip("\n"))
                if lines[-1] == "":
                    for event in sse.events(lines):
                        yield event
                    lines = []

    async def fetch(self, job: Mapping[str, Any]) -> None:
        """Read the first file of a job that succeeded."""
        image = job["images"][0]
        answer = await self.send("GET", image["url"])
        if answer.status == 200:
            found = hashlib.sha256(answer.content).hexdigest()
            self.note("fetched", job=job["id"], sha256=(image["sha256"], found), http=200)
        else:
            self.note("fetched", job=job["id"], sha256=(image["sha256"],), http=answer.status)
