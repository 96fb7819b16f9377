"""Accepting a request: validate it, write the job, answer from stored images or wake a worker after commit."""

import re
import secrets
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial

import structlog
from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from generation.access import quotas
from generation.catalogue import matching
from generation.catalogue import variants as catalogue
from generation.catalogue.matching import Match
from generation.errors import GenerationError, InvalidRequest
from generation.images import store as images
from generation.images.store import StoredImage
from generation.infra import notifications, prepared, queues
from generation.infra.compiled import Insert
from generation.infra.prepared import EARLY
from generation.jobs import lifecycle as jobs
from generation.jobs import quality_control, resolved_requests, routing
from generation.jobs.resolved_requests import Known
from generation.models import MOST_TRIES, APIKey, Job, Release
from generation.releases import lifecycle as releases
from generation.webhooks import endpoints as webhooks

log = structlog.get_logger(__name__)

MAX_BASE_URL = 200  # of the column
SEED_LIMIT = 2**32  # what clients of other services send; one integer in every language


def submit(
    owner,
    *,
    variant: str | None = None,
    text: str | None = None,
    match: bool | None = None,
    n: int = 1,
    seed: int | None = None,
    size: str | None = None,
    output_format: str = "webp",
    model: str | None = None,
    priority: int = 0,
    metadata: bool = False,
    cancel_after: float | None = None,
    external_id: str = "",
    external_fingerprint: str = "",
    api_key: APIKey | None = None,
    via: str = Job.Via.JOBS,
    base_url: str = "",
    webhook: str | None = None,
    webhook_events: Sequence[str] | None = None,
) -> Job:
    """Write a job for `owner`. Raises a GenerationError that says what to change.

    variant: a slug; text: a wording of the catalogue, or one that is near enough unless match is False; exactly one of
    the two. size: "WIDTHxHEIGHT". model: "student", "teacher" or the name of a release. Without a seed a fresh one is
    drawn and kept, so that the picture can be asked for again. cancel_after: seconds until a job that has not ended is
    canceled. external_id: chosen by the client, unique to its owner; external_fingerprint: of the request that chose
    it. base_url: where the client reached us. webhook: a URL that is told of the job; webhook_events: of which of
    Delivery.Event, by default of all.
    """
    if (variant is None) == (text is None):
        raise InvalidRequest("Give exactly one of variant and text.", parameter="variant")
    if len(base_url) > MAX_BASE_URL:
        raise InvalidRequest("The name of the host is too long.", parameter="Host")
    if text is None and match is not None:
        raise InvalidRequest("match goes with text: a slug means one variant.", parameter="match")
    if not 1 <= n <= settings.MAX_IMAGES_PER_JOB:
        raise InvalidRequest(
            f"n must be from 1 to {settings.MAX_IMAGES_PER_JOB}, not {n}.", parameter="n"
        )
    is_fresh = seed is None  # then nobody has asked for these images before
    if seed is None:
        # With room for the seeds of further tries.
        seed = secrets.randbelow(SEED_LIMIT - n * MOST_TRIES + 1)
    if not 0 <= seed <= SEED_LIMIT - n:
        raise InvalidRequest(f"seed must be from 0 to {SEED_LIMIT - n}.", parameter="seed")
    if output_format not in Job.Format.values:
        raise InvalidRequest(
            f"output_format must be one of {', '.join(Job.Format.values)}.",
            parameter="output_format",
        )
    told = webhooks.check_events(webhook_events)
    if webhook is None and webhook_events is not None:
        raise InvalidRequest("webhook_events goes with webhook.", parameter="webhook_events")

    def made(found: Match, in_service: Sequence[Release] | None) -> Job:
        lot = f"{found.variant.slug} {seed}"
        release = routing.resolve(model, variant=found.variant, lot=lot, in_service=in_service)
        max_tries = quality_control.tries(found.variant, release)
        width, height = _size(size, release)
        now = timezone.now()
        job = Job(
            owner=owner,
            variant=found.variant,
            asked_text=found.asked,
            match_score=found.score,
            embedding=catalogue.embedding_for(found.variant, release),
            release=release,
            n=n,
            seed=seed,
            width=width,
            height=height,
            num_inference_steps=release.num_inference_steps,
            output_format=output_format,
            priority=priority,
            has_metadata=metadata,
            cancel_at=None if cancel_after is None else now + timedelta(seconds=cancel_after),
            external_id=external_id,
            external_fingerprint=external_fingerprint,
            api_key=api_key,
            weight=api_key.weight if api_key else 1,
            via=via,
            base_url=base_url,
            webhook=None if webhook is None else webhooks.endpoint(owner, webhook),
            webhook_events=[] if webhook is None else told,
            created_at=now,
            # Who asks for a seed gets the picture of that seed, flagged if it shows something else.
            max_tries=max_tries if is_fresh else min(max_tries, 1),
        )
        job.key = images.job_key(images.keys(job), max_tries=job.max_tries)
        return job

    job = None
    known = resolved_requests.find(variant, text) if model is None else None
    if known is not None:
        with suppress(GenerationError):  # of yesterday: what is refused is said below
            job = made(Match(known.variant), known.in_service)
        if job is not None and _write_as_known(job, known, is_fresh=is_fresh):
            return job
        if job is not None and not resolved_requests.holds(known, job.embedding):
            job = None
    if job is None:
        found = (
            Match(catalogue.find(slug=variant))
            if text is None
            else matching.find(text, exactly=match is False)
        )
        in_service = releases.in_service() if model is None else None
        job = made(found, in_service)
        if in_service is not None and found.score is None:
            resolved_requests.keep(variant, text, Known(found.variant, in_service))
    with transaction.atomic():
        _write(job, is_fresh=is_fresh)
    return job


# Of %(keys)s, which is empty where nobody can have asked for these images before.
_IS_KNOWN = "EXISTS (SELECT 1 FROM generation_image image WHERE image.key = ANY(%(keys)s::text[]))"
# One round trip, which is a transaction of its own, if all is as it was known to be, and none of the images exists.
_insert_as_known = Insert(
    Job,
    where=f"{resolved_requests.HOLDS} AND NOT {_IS_KNOWN}",
    returning="true",
    settings=EARLY,
)


def _write_as_known(job: Job, known: Known, *, is_fresh: bool) -> bool:
    """And call a worker; False: nothing was done, for something changed, or there is more to it.

    The worker is called while the row is on its way to the disk. Whoever gets an answer gets it when it is there.
    """
    if connection.in_atomic_block or quotas.is_limited(job) or quotas.refusal(job) is not None:
        return False
    keys = [] if is_fresh else images.keys(job)
    if not _insert_as_known([job], keys=keys, **known.rows(job.embedding)):
        return False
    notifications.wake(queues.of_kind(job.release.kind))
    prepared.make_durable()
    _say_accepted(job)
    return True


# Whether any of its images exists is asked in the same round trip; what there is, is looked for only then.
_insert = Insert(Job, returning=_IS_KNOWN)


def _write(job: Job, *, is_fresh: bool) -> None:
    """And answer it with stored images, or call a worker. Raises what `limits` does."""
    refusal = quotas.refusal(job)
    if refusal is not None and (is_fresh or _stored(job) is None):
        raise refusal
    quotas.use(job)
    ((is_known,),) = _insert([job], keys=[] if is_fresh else images.keys(job))
    stored = _stored(job) if is_known else None
    if stored is None:
        transaction.on_commit(
            partial(notifications.wake, queues.of_kind(job.release.kind)), robust=True
        )
    else:
        jobs.answer(job, stored)
    transaction.on_commit(partial(_say_accepted, job), robust=True)


def _stored(job: Job) -> Sequence[StoredImage] | None:
    """Images that answer the job."""
    stored = images.find(job)
    return stored if stored is not None and images.answers(job, stored) else None


def _say_accepted(job: Job) -> None:
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
