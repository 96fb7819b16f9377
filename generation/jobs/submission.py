"""Submission of a job: resolve the request, check it, insert the row, and notify a worker after the commit."""

import re
import secrets
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import timedelta
from functools import partial

import structlog
from django.db import transaction
from django.utils import timezone

from generation.access import quotas
from generation.catalogue import matching, text_rules
from generation.catalogue import variants as catalogue
from generation.catalogue.matching import Match
from generation.errors import InvalidRequest
from generation.images import store as images
from generation.images.store import StoredImage
from generation.infra import database, notifications, queues
from generation.jobs import lifecycle as jobs
from generation.jobs import quality_control, reading, routing, rows, stock
from generation.jobs.after_commit import Report
from generation.jobs.job_request import JobRequest
from generation.jobs.routing import Route
from generation.models import Job, Release
from generation.webhooks import endpoints as webhooks

log = structlog.get_logger(__name__)


def submit(owner, request: JobRequest) -> Job:
    """Insert a job for `owner` and return it. Raises GenerationError.

    1. Resolve variant, release and embedding.
    2. Look for stored or stocked images that answer the request, and check the limits.
    3. Insert the row; with stored images the job has already succeeded.
    4. Notify a worker after the commit.
    """
    seed = request.seed
    if seed is None:
        seed = secrets.randbelow(request.largest_fresh_seed + 1)
    match, route = _resolve(request, seed)
    job = _job(owner, request, match, route, seed)
    # A random seed has no stored images, only possibly stocked ones.
    stored = None if request.seed is None else _stored(job)
    # Without a transaction if possible: BEGIN and COMMIT are a third of the round trips of a single INSERT.
    takes_stock = request.seed is None and stock.fits(job)
    is_one_row = (
        stored is None
        and not takes_stock
        and job.webhook_id is None
        and not quotas.is_limited(owner, request.api_key)
    )
    with nullcontext() if is_one_row else transaction.atomic():
        if takes_stock:
            stored = stock.take(job)
        if stored is not None and images.hold(stored):
            stored = None  # a file was just removed
        _check_limits(job, is_stored=stored is not None)
        if request.webhook is not None:
            webhooks.hold(job, request.webhook)
        _insert(job, stored, is_of_stock=takes_stock, is_timed=_has_time(request))
        transaction.on_commit(partial(_notify, job), robust=True)
    return job


def _resolve(request: JobRequest, seed: int) -> tuple[Match, Route]:
    """Return the requested variant and its route.

    This takes one query, or a request to the encode worker if no variant has the text.
    """
    text = request.text
    normalized = None if text is None else text_rules.check_text(text, ())
    found = routing.find(request.model, slug=request.variant, normalized_text=normalized)
    if found is not None:
        match = Match(found[0])
        key = f"{match.variant.slug} {seed}"
        return match, routing.choose(request.model, *found, sampling_key=key)
    if text is None:
        match = Match(catalogue.find(slug=request.variant))  # raises with the reason
    else:
        match = matching.find(text, exactly=request.match is False)
    slug = match.variant.slug
    return match, routing.resolve(request.model, slug=slug, sampling_key=f"{slug} {seed}")


def _job(owner, request: JobRequest, match: Match, route: Route, seed: int) -> Job:
    """Return the row to insert. Raises InvalidRequest and WebhookDisabled."""
    release = route.release
    width, height = _size(request.size, release)
    max_tries = quality_control.tries(route.variant, release)
    # Otherwise the INSERT sets it.
    now = database.now() if _has_time(request) else timezone.now()
    has_webhook = request.webhook is not None
    job = Job(
        owner=owner,
        variant=route.variant,
        asked_text=match.asked,
        match_score=match.score,
        embedding=route.embedding,
        release=release,
        is_release_named=routing.is_name(request.model),
        n=request.n,
        seed=seed,
        width=width,
        height=height,
        num_inference_steps=release.num_inference_steps,
        output_format=request.output_format,
        priority=request.priority,
        has_metadata=request.metadata,
        cancel_at=None
        if request.cancel_after is None
        else now + timedelta(seconds=request.cancel_after),
        external_id=request.external_id,
        external_fingerprint=request.external_fingerprint,
        api_key=request.api_key,
        weight=request.api_key.weight if request.api_key else 1,
        via=request.via,
        base_url=request.base_url,
        webhook=webhooks.endpoint(owner, request.webhook) if request.webhook is not None else None,
        webhook_events=webhooks.check_events(request.webhook_events) if has_webhook else [],
        created_at=now,
        # A requested seed gives that seed's image, which is flagged if it shows something else.
        max_tries=max_tries if request.seed is None else min(max_tries, 1),
    )
    job.key = images.job_key(images.keys(job), max_tries=job.max_tries)
    return job


def _has_time(request: JobRequest) -> bool:
    """Return whether the job's time is needed before it is inserted: for its deadline, or in its files."""
    return request.cancel_after is not None or request.metadata


def _stored(job: Job) -> Sequence[StoredImage] | None:
    """Return stored images that answer the job, or None."""
    stored = images.find(job)
    return stored if stored is not None and images.answers(job, stored) else None


def _check_limits(job: Job, *, is_stored: bool) -> None:
    """Count the job towards its quotas. Raises QueueFull, RateLimited or QuotaExceeded if it is not allowed.

    Limits on queued jobs do not apply to a job that stored images answer.
    """
    refusal = quotas.refusal(job)
    if refusal is not None and not is_stored:
        raise refusal
    quotas.use(job)


def _insert(
    job: Job, stored: Sequence[StoredImage] | None, *, is_of_stock: bool, is_timed: bool
) -> None:
    """Insert the job, by PostgreSQL's clock: hosts whose clocks differ must not change the order of claims."""
    if stored is not None:
        job.status, job.cache, job.finished_at = Job.Status.SUCCEEDED, Job.Cache.HIT, database.now()
        if not is_timed:
            job.created_at, is_timed = job.finished_at, True
    rows.insert([job], now="" if is_timed else "created_at")
    if stored is not None:
        images_made = jobs.image_rows(job, stored)
        rows.insert(images_made)
        setattr(job, reading.IMAGES, images_made)
        report = Report()
        if is_of_stock:
            report.count("retort_stock_total", outcome="given")
        jobs.finished(job, report)


def _notify(job: Job) -> None:
    if job.status == Job.Status.QUEUED:
        notifications.wake(queues.of_kind(job.release.kind))
    log.info(
        "job_accepted",
        job_id=str(job.id),
        variant=job.variant.slug,
        release=job.release.name,
        n=job.n,
    )


def _size(size: str | None, release: Release) -> tuple[int, int]:
    allowed = release.image_sizes
    if size is None:
        return allowed[0]
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", size)
    if not match or (int(match[1]), int(match[2])) not in allowed:
        names = ", ".join(f"{width}x{height}" for width, height in allowed)
        raise InvalidRequest(
            f"size must be one of {names} for the release {release.name}.", parameter="size"
        )
    return int(match[1]), int(match[2])
