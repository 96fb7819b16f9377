"""Measure whether a million job rows slow frequent operations. Runs in a process that has set Django up.

The rows are inserted by SQL: most jobs have ended, one in QUEUED_ONE_IN is queued; they belong to OWNERS owners.
"""

import json
import re
import statistics
import time
import uuid
from collections.abc import Callable
from typing import Any

from django.contrib.auth.models import User
from django.db import connection, transaction
from django.test import Client

from generation.jobs import claiming, estimates
from generation.models import APIKey, Job

OWNERS = 20
QUEUED_ONE_IN = 100  # of a million, as many as MAX_QUEUED_JOBS allows
ROUNDS = 30
COPIED = (
    "id",
    "owner_id",
    "key",
    "status",
    "created_at",
    "started_at",
    "finished_at",
    "lease_expires_at",
)


def fill(rows: int, template: Job, owners: list[int]) -> None:
    others = [f.column for f in Job._meta.concrete_fields if f.column not in COPIED]
    columns = ", ".join((*COPIED, *others))
    sql = f"""
        INSERT INTO generation_job ({columns})
        SELECT gen_random_uuid(), (%s::int[])[1 + (g / {QUEUED_ONE_IN}) %% {len(owners)}],
               md5(g::text) || md5((g + 1)::text),
               CASE WHEN g %% {QUEUED_ONE_IN} = 0 THEN 'queued' ELSE 'succeeded' END,
               now() - g * interval '1 s',
               CASE WHEN g %% {QUEUED_ONE_IN} = 0 THEN NULL ELSE now() - g * interval '1 s' END,
               CASE WHEN g %% {QUEUED_ONE_IN} = 0 THEN NULL ELSE now() - g * interval '1 s' END,
               NULL, {", ".join(f"t.{name}" for name in others)}
          FROM generate_series(1, %s) g, generation_job t WHERE t.id = %s"""
    with connection.cursor() as cursor:
        cursor.execute(sql, [owners, rows, template.id])
        cursor.execute("VACUUM ANALYZE generation_job")


class Operations:
    """Measured operations by name: a claim (rolled back), a place in the queue, and pages of lists through the API."""

    def __init__(self, owner: User, job: Job) -> None:
        self._job = job
        _, plain = APIKey.objects.issue(owner, f"rows {uuid.uuid4()}", APIKey.Scope.values)
        self._client = Client(SERVER_NAME="localhost", headers={"Authorization": f"Bearer {plain}"})
        self._deep = ""

    def all(self) -> dict[str, Callable[[], Any]]:
        return {
            "claim": self.claim,
            "position": self.position,
            "list, first page": lambda: self.list("/v1/jobs"),
            "list, queued": lambda: self.list("/v1/jobs?status=queued"),
            "list, a deep page": lambda: self.list(self._deep or "/v1/jobs"),
        }

    def go_deep(self, before: str) -> None:
        """Use a page from the middle of the owner's jobs, by its cursor."""
        first = self.list(f"/v1/jobs?created_before={before}")
        self._deep = first["next"] or ""

    def claim(self) -> None:
        with transaction.atomic():
            claiming.take("rows", batch_size=8, lease_seconds=20)
            transaction.set_rollback(True)

    def position(self) -> None:
        estimates.of(self._job)

    def list(self, path: str) -> dict[str, Any]:
        answer = self._client.get(path)
        assert answer.status_code == 200, answer.content
        return answer.json()


def measured(operations: Operations) -> dict[str, dict[str, Any]]:
    found = {}
    for name, operation in operations.all().items():
        operation()
        spans = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            operation()
            spans.append(1000 * (time.perf_counter() - started))
        found[name] = {"ms": round(statistics.median(spans), 2), **plan(operation)}
    return found


def plan(operation: Callable[[], Any]) -> dict[str, Any]:
    """Return the blocks that the operation's statements touch, and their scans of generation_job."""
    statements: list[tuple[str, Any]] = []

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if "generation_job" in sql and not sql.startswith("EXPLAIN"):
            statements.append((sql, params))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(note):
        operation()
    blocks, ways = 0, set()
    for sql, params in statements:
        with transaction.atomic(), connection.cursor() as cursor:
            settings, statement = sql.rpartition(";")[::2]
            explain = "EXPLAIN (ANALYZE, BUFFERS, SUMMARY OFF, TIMING OFF)"
            cursor.execute(f"{settings}; {explain} {statement}", params)
            lines = [line for (line,) in cursor.fetchall()]
            transaction.set_rollback(True)
        hits = re.findall(r"Buffers: shared (?:hit=(\d+))?(?: read=(\d+))?", "\n".join(lines))
        blocks += int(hits[0][0] or 0) + int(hits[0][1] or 0) if hits else 0
        ways |= {
            scan.strip()
            for line in lines
            for scan in re.findall(
                r"((?:Index Only|Index|Seq|Bitmap Heap) Scan[^(]*on generation_job)", line
            )
        } | {
            re.sub(r" on generation_job.*", "", scan)
            for line in lines
            for scan in re.findall(
                r"Index (?:Only )?Scan (?:Backward )?using (job_\w+ on generation_job\w*)", line
            )
        }
    return {"blocks": blocks, "ways": sorted(ways)}


def main(rows: int) -> None:
    """Print JSON: milliseconds and plans with few rows of jobs, and with `rows` more."""
    template = Job.objects.filter(status="succeeded").order_by("created_at").first()
    assert template is not None, "let the stack make a picture first"
    owners = [User.objects.get_or_create(username=f"rows-{k}")[0] for k in range(OWNERS)]
    facts = {
        f.attname: getattr(template, f.attname)
        for f in Job._meta.concrete_fields
        if f.attname not in ("id", "external_id")
    }
    mine = Job.objects.create(
        **(facts | {"owner_id": owners[0].pk, "status": "queued", "key": uuid.uuid4().hex,
                    "started_at": None, "finished_at": None, "lease_expires_at": None})
    )  # fmt: skip
    operations = Operations(owners[0], mine)
    fill(1000, template, [owner.pk for owner in owners])
    before = measured(operations)
    started = time.perf_counter()
    fill(rows, template, [owner.pk for owner in owners])
    filled = time.perf_counter() - started
    middle = Job.objects.filter(owner=owners[0]).order_by("created_at")[rows // OWNERS // 2]
    operations.go_deep(middle.created_at.isoformat().replace("+", "%2B"))
    print(
        json.dumps(
            {"rows": rows, "fill_seconds": filled, "before": before, "after": measured(operations)}
        )
    )
