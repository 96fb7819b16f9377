"""Invariants: each is a name, a promise and a function that returns its violations.

The checker reads the database without caches and pools, the files, the receiver's counts and the clients' log.
"""

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image as Picture

from tests.chaos.evidence import Evidence, Violation
from tests.chaos.log import TERMINAL, Seen

Rows = Sequence[Sequence[Any]]
TOLERANCE = 8  # of 255: the largest of generation.engine.pipeline.TOLERANCE, which loads torch

# Several times STALL_SECONDS of the programme's stack, and shorter than the fault of a device that hangs.
OPEN_SECONDS = 45

# A file without a row is removed by the first nightly sweep in which it is older.
ORPHAN_SECONDS = 24 * 3600

Found = Iterator[tuple[str, str]]  # subject and detail


# --- at any time ----------------------------------------------------------------------------------
def ends_once(evidence: Evidence) -> Found:
    """A job that has ended never changes its status again."""
    yield from _pairs(
        evidence,
        "SELECT job_id, string_agg(old || ' -> ' || new, ', ' ORDER BY number) FROM chaos_transition"
        " GROUP BY job_id"
        " HAVING count(*) FILTER (WHERE new = ANY(%s)) > 1 OR count(*) FILTER (WHERE old = ANY(%s)) > 0",
        list(TERMINAL),
        list(TERMINAL),
    )


def exact_images(evidence: Evidence) -> Found:
    """A job that succeeded has exactly n images, numbered from 0; any other job has none."""
    yield from _pairs(
        evidence,
        "SELECT j.id, j.status || ' with ' || count(i.id) || ' of ' || j.n || ' images'"
        " FROM generation_job j LEFT JOIN generation_image i ON i.job_id = j.id WHERE j.purged_at IS NULL GROUP BY j.id"
        " HAVING count(i.id) <> CASE WHEN j.status = 'succeeded' THEN j.n ELSE 0 END"
        " OR (count(i.id) > 0 AND (min(i.index) <> 0 OR max(i.index) <> count(i.id) - 1))",
    )


def one_attempt_at_a_time(evidence: Evidence) -> Found:
    """Attempts are numbered without a gap; a running job has one open attempt, any other none; one succeeds at most."""
    yield from _pairs(
        evidence,
        "SELECT j.id, j.status || ', attempt ' || j.attempt || ', rows '"
        " || coalesce(string_agg(a.number || ' ' || a.outcome, ', ' ORDER BY a.number), 'none')"
        " FROM generation_job j LEFT JOIN generation_attempt a ON a.job_id = j.id GROUP BY j.id"
        " HAVING count(a.id) <> j.attempt OR coalesce(max(a.number), 0) <> j.attempt"
        " OR count(*) FILTER (WHERE a.outcome = 'running') <> (j.status = 'running')::int"
        " OR count(*) FILTER (WHERE a.outcome = 'succeeded') > 1",
    )


def one_computation_per_key(evidence: Evidence) -> Found:
    """Of identical jobs at most one runs."""
    yield from _pairs(
        evidence,
        "SELECT key, count(*) || ' running' FROM generation_job WHERE status = 'running'"
        " GROUP BY key HAVING count(*) > 1",
    )


def attempts_are_bounded(evidence: Evidence) -> Found:
    """An attempt ends by itself, whatever its device does. A lease is renewed while it makes progress."""
    yield from _pairs(
        evidence,
        "SELECT a.job_id, 'attempt ' || a.number || ' of ' || a.worker_name || ' is open for more than %s s'"
        " FROM generation_attempt a WHERE a.outcome = 'running' AND a.started_at < now() - %s * interval '1 second'",
        OPEN_SECONDS,
        OPEN_SECONDS,
    )


USAGE = """
SELECT l.{name}, 'counted ' || coalesce(u.images, 0) || ' images and ' || coalesce(u.seconds, 0) || ' s, accepted '
       || coalesce(j.images, 0) || ' and ' || coalesce(j.seconds, 0) || ' s, limit ' || l.images_per_day
  FROM {limits} l
  LEFT JOIN (SELECT {column} AS id, sum(images) AS images, sum(device_seconds) AS seconds FROM {usage} GROUP BY 1) u
    ON u.id = l.{pk}
  LEFT JOIN (SELECT {column} AS id, sum(n) AS images, sum(device_seconds) AS seconds FROM generation_job GROUP BY 1) j
    ON j.id = l.{pk}
 WHERE l.images_per_day IS NOT NULL
   AND (coalesce(u.images, 0) <> coalesce(j.images, 0) OR coalesce(u.images, 0) > l.images_per_day
        OR abs(coalesce(u.seconds, 0) - coalesce(j.seconds, 0)) > 0.001)
"""
OF_KEY = USAGE.format(
    name="prefix",
    limits="generation_apikey",
    pk="id",
    column="api_key_id",
    usage="generation_usage",
)
OF_PERSON = USAGE.format(
    name="owner_id",
    limits="generation_ownerlimits",
    pk="owner_id",
    column="owner_id",
    usage="generation_ownerusage",
)


def quotas_are_exact(evidence: Evidence) -> Found:
    """The usage of a key and of a person is the sum of the accepted jobs, and never above the limit."""
    yield from _pairs(evidence, OF_KEY)
    yield from _pairs(evidence, OF_PERSON)


def releases_as_decided(evidence: Evidence) -> Found:
    """One release of a kind is active: the one that was activated last."""
    rows = evidence.query("SELECT kind, name FROM generation_release WHERE status = 'active'")
    found = defaultdict(list)
    for kind, name in rows:
        found[kind].append(name)
    for kind, name in dict(evidence.active).items():
        if found[kind] != [name]:
            yield kind, f"{name} was activated last, active: {found[kind]}"


def one_beat(evidence: Evidence) -> Found:
    """The schedule is sent by one process at a time."""
    past: set[str] = set()
    current = ""
    for tick in evidence.ticks:
        if tick.origin != current:
            if tick.origin in past:
                yield tick.origin, f"sends again at {tick.at:.1f} after {current} took over"
            past.add(current)
            current = tick.origin


def refusals_are_retryable(evidence: Evidence) -> Found:
    """A refusal caused by the server is a retryable 503 or 429 with Retry-After; there is no other 5xx."""
    for seen in evidence.log.of("refused"):
        if seen.code == "quota_exceeded" or (seen.http < 500 and seen.http != 429):
            continue
        is_of_job = seen.http == 500 and seen.kind == "openai" and seen.retryable is False
        if is_of_job and seen.code not in ("", "internal_error"):
            continue  # the job failed, which another invariant judges
        if seen.http not in (429, 503) or not seen.retry_after or seen.retryable is False:
            yield (
                f"{seen.http} {seen.code}",
                f"Retry-After {seen.retry_after or 'none'}, retryable {seen.retryable}: {seen.detail}",
            )


def responses_match_rows(evidence: Evidence) -> Found:
    """Statuses and hashes of files in responses match the rows, and never contradict each other."""
    reported: dict[str, list[Seen]] = defaultdict(list)
    for seen in evidence.log.of("reported"):
        reported[seen.job].append(seen)
    ended = {
        job for job, all_seen in reported.items() if any(s.status in TERMINAL for s in all_seen)
    }
    rows = {
        str(row[0]): row[1:]
        for row in evidence.query(
            "SELECT j.id, j.status, j.purged_at IS NOT NULL,"
            " array_agg(i.sha256 ORDER BY i.index) FILTER (WHERE i.id IS NOT NULL)"
            " FROM generation_job j LEFT JOIN generation_image i ON i.job_id = j.id"
            " WHERE j.id = ANY(%s::uuid[]) GROUP BY j.id",
            list(ended),
        )
    }
    for job in ended:
        if job not in rows:
            yield job, "there is no row"
            continue
        status, is_purged, hashes = rows[job]
        for seen in reported[job]:
            if seen.status in TERMINAL and seen.status != status:
                yield job, f"reported {seen.status}, is {status}"
            has_files = seen.status == "succeeded" and seen.sha256 and not is_purged
            if has_files and list(seen.sha256) != list(hashes or ()):
                yield job, f"reported files {_short(seen.sha256)}, has {_short(hashes or ())}"


def fetched_files_match(evidence: Evidence) -> Found:
    """A fetched file has the hash in the response."""
    for seen in evidence.log.of("fetched"):
        if seen.http != 200:
            yield seen.job, f"the file was answered with {seen.http}"
        elif seen.sha256[0] != seen.sha256[1]:
            yield seen.job, f"reported {_short(seen.sha256[:1])}, got {_short(seen.sha256[1:])}"


def one_job_per_request(evidence: Evidence) -> Found:
    """Requests with one idempotency key, or one id of the client's own, get one job."""
    jobs: dict[str, set[str]] = defaultdict(set)
    for seen in evidence.log.of("accepted"):
        jobs[seen.idem].add(seen.job)
    for idem, found in jobs.items():
        if len(found) > 1:
            yield idem, f"{len(found)} jobs: {sorted(found)}"


# --- when the load has ended ----------------------------------------------------------------------
def accepted_jobs_end(evidence: Evidence) -> Found:
    """Each accepted job has a row, and ends."""
    accepted = sorted({seen.job for seen in evidence.log.of("accepted")})
    yield from _pairs(
        evidence,
        "SELECT a.id, coalesce(j.status, 'there is no row') FROM unnest(%s::uuid[]) AS a (id)"
        " LEFT JOIN generation_job j ON j.id = a.id WHERE j.id IS NULL",
        accepted,
    )
    yield from _pairs(
        evidence,
        "SELECT id, status || ', attempt ' || attempt FROM generation_job WHERE status <> ALL(%s)",
        list(TERMINAL),
    )


def no_job_fails(evidence: Evidence) -> Found:
    """No job fails because of faults of servers, devices and storage."""
    yield from _pairs(
        evidence,
        "SELECT id, error_code || ' after ' || attempt || ' attempts: ' || left(error_detail, 200)"
        " FROM generation_job WHERE status = 'failed'",
    )


def clients_are_answered(evidence: Evidence) -> Found:
    """No client waits for ever."""
    for seen in evidence.log.of("gave-up"):
        yield seen.job or seen.kind, seen.detail


def files_as_promised(evidence: Evidence) -> Found:
    """Each image's file exists with the size and hash of its row, and its master with the hash in its name."""
    known: dict[str, str] = {}
    for pk, file, sha256, size, master in evidence.query(
        "SELECT id, file, sha256, size_bytes, master FROM generation_image"
    ):
        path = evidence.media / file
        if not path.is_file():
            yield str(pk), f"{file} is missing"
        elif path.stat().st_size != size or _hash(path, known) != sha256:
            yield str(pk), f"{file} has {path.stat().st_size} of {size} bytes or another hash"
        path = evidence.media / master
        if not path.is_file():
            yield str(pk), f"the master {master} is missing"
        elif _hash(path, known) != PurePosixPath(master).stem:
            yield str(pk), f"the master {master} has another hash"


REFERENCES = " UNION ".join(
    f"SELECT {column} FROM {table}"
    for table, column in (
        ("generation_image", "file"),
        ("generation_image", "master"),
        ("generation_stockedimage", "file"),
        ("generation_stockedimage", "master"),
        ("generation_variantimage", "file"),
        ("distillation_example", "file"),
    )
)


def no_file_without_row(evidence: Evidence) -> Found:
    """No file is older than `ORPHAN_SECONDS` that no row refers to. A thumbnail belongs to the file with its hash."""
    known = {name for (name,) in evidence.query(REFERENCES)}
    of_thumbnails = {PurePosixPath(name).stem for name in known}
    for path in sorted(evidence.media.rglob("*")):
        name = path.relative_to(evidence.media)
        is_of_row = name.as_posix() in known or (
            name.parts[0] == "thumbnails" and name.stem in of_thumbnails
        )
        if is_of_row or not path.is_file():
            continue
        seconds = time.time() - path.stat().st_mtime
        if seconds > ORPHAN_SECONDS:
            yield str(name), f"{path.stat().st_size} bytes, {seconds:.0f} s old"


def nothing_half_written(evidence: Evidence) -> Found:
    """No partial file is left in the folder of images."""
    for path in evidence.media.rglob(".partial-*"):
        yield path.name, f"{path.stat().st_size} bytes in {path.parent}"


def same_seed_same_picture(evidence: Evidence) -> Found:
    """Pictures of one key differ by at most the tolerance, whichever worker made them."""
    for key, masters in evidence.query(
        "SELECT key, array_agg(DISTINCT master) FROM generation_image GROUP BY key HAVING count(DISTINCT master) > 1"
    ):
        pixels = [_pixels(evidence.media / name) for name in masters]
        for other in pixels[1:]:
            off = int(np.abs(pixels[0] - other).max())
            if off > TOLERANCE:
                yield key, f"differ by {off} of 255: {masters}"


def webhooks_once_each(evidence: Evidence) -> Found:
    """Each end of a job with a webhook has one message per event, received at least once with its id."""
    yield from _pairs(
        evidence,
        "SELECT job_id, count(*) || ' messages ' || event FROM generation_delivery GROUP BY job_id, event"
        " HAVING count(*) > 1",
    )
    yield from _pairs(
        evidence,
        "SELECT j.id, j.status || ' without a message ' || w.event FROM generation_job j,"
        " (VALUES ('completed'), ('output')) AS w (event)"
        " WHERE j.webhook_id IS NOT NULL AND j.status = ANY(%s) AND j.purged_at IS NULL"
        " AND (w.event = 'completed' OR j.status = 'succeeded')"
        " AND NOT EXISTS (SELECT 1 FROM generation_delivery d WHERE d.job_id = j.id AND d.event = w.event)",
        list(TERMINAL),
    )
    rows = evidence.query(
        "SELECT d.id, d.status, d.event, d.last_error, j.purged_at IS NOT NULL FROM generation_delivery d"
        " JOIN generation_job j ON j.id = d.job_id"
    )
    for pk, status, event, error, is_purged in rows:
        if status != "delivered" and not is_purged:
            yield str(pk), f"{event} is {status}: {error}"
        if status == "delivered" and not evidence.received.get(str(pk)):
            yield str(pk), f"{event} is delivered, and was not received"
    known = {str(row[0]) for row in rows}
    seen: dict[tuple[str, str], set[str]] = defaultdict(set)
    for message, about in evidence.messages.items():
        if message not in known:
            yield message, f"received {about}, without a row"
        seen[about].add(message)
    for about, found in seen.items():
        if len(found) > 1:
            yield about[0], f"{about[1]} came under {len(found)} ids"


AT_ANY_TIME = (
    ends_once,
    exact_images,
    one_attempt_at_a_time,
    one_computation_per_key,
    attempts_are_bounded,
    quotas_are_exact,
    releases_as_decided,
    one_beat,
    one_job_per_request,
)
OF_FILES = (files_as_promised, no_file_without_row)
AT_THE_END = (
    *AT_ANY_TIME,
    refusals_are_retryable,
    responses_match_rows,
    fetched_files_match,
    accepted_jobs_end,
    no_job_fails,
    clients_are_answered,
    *OF_FILES,
    nothing_half_written,
    same_seed_same_picture,
    webhooks_once_each,
)
LOST = {"accepted_jobs_end", "clients_are_answered"}
DOUBLED = {"ends_once", "exact_images", "one_computation_per_key", "one_job_per_request"}
FAILED = {"no_job_fails"}


def check(evidence: Evidence, invariants: Iterable[Callable[[Evidence], Found]]) -> list[Violation]:
    """Return all violations."""
    return [
        Violation(invariant.__name__.replace("_", " "), subject, detail)
        for invariant in invariants
        for subject, detail in invariant(evidence)
    ]


def _pairs(evidence: Evidence, sql: str, *parameters: Any) -> Found:
    for subject, detail in evidence.query(sql, *parameters):
        yield str(subject), str(detail)


def _short(hashes: Sequence[str]) -> list[str]:
    return [found[:8] for found in hashes]


def _hash(path: Path, known: dict[str, str]) -> str:
    name = str(path)
    if name not in known:
        known[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return known[name]


def _pixels(path: Path) -> np.ndarray:
    with Picture.open(path) as picture:
        return np.asarray(picture.convert("RGB"), dtype=int)
