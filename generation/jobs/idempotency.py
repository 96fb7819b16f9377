"""Idempotency: a repeated request gets the same job, identified by the client's key, the body or the client's id."""

import hashlib
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.db import IntegrityError, connection, transaction
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.utils.crypto import salted_hmac

from generation.errors import IdempotencyInProgress, IdempotencyKeyReused, InvalidRequest
from generation.infra import database
from generation.models import ERASED, IdempotencyKey, Job
from generation.webhooks.predictions import called

MAX_CHARACTERS = 255
KEPT = timedelta(hours=48)
BY_BODY = "by body: "  # prefix of the route of requests that are found by their body


def key_of(header: str | None) -> str | None:
    """Return the key in an Idempotency-Key header, quoted or bare. Raises InvalidRequest."""
    if header is None:
        return None
    key = header.strip()
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if not key or len(key) > MAX_CHARACTERS or not (key.isascii() and key.isprintable()):
        raise InvalidRequest(
            f"Give 1 to {MAX_CHARACTERS} printable ASCII characters.", parameter="Idempotency-Key"
        )
    return key


def erased(key: str) -> str:
    """Return the digest that replaces the key when its job is purged."""
    return ERASED + salted_hmac("erased idempotency key", key, algorithm="sha256").hexdigest()


def fingerprint(body: Any) -> str:
    """Return the SHA-256 of a JSON body, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def once(owner, route: str, *, key: str | None, body: Any, make: Callable[[], Job]) -> Job:
    """Return the job of an earlier identical request, or make it. key: None = no idempotency.

    Raises IdempotencyKeyReused if the key was used with another body, IdempotencyInProgress while another process
    makes the job, and exceptions of `make`; then nothing is stored, and the key remains unused.
    """
    if key is None:
        return make()
    mark = fingerprint(body)
    with transaction.atomic():
        _lock(f"{owner.pk} {route} {key}")
        known = IdempotencyKey.objects.select_related("job").filter(
            owner=owner, route=route, key__in=(key, erased(key))
        )
        if row := known.first():
            if row.fingerprint != mark:
                raise IdempotencyKeyReused(
                    "Send another key with another body.", parameter="Idempotency-Key"
                )
            return row.job
        job = make()
        IdempotencyKey.objects.create(
            owner=owner, route=route, key=key, fingerprint=mark, job=job, created_at=Now()
        )
    return job


def _lock(name: str) -> None:
    """Take an advisory lock until the transaction ends. Raises IdempotencyInProgress."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))", [name])
        if not cursor.fetchone()[0]:
            raise IdempotencyInProgress("Send it again in a second.", retry_after=1)


def remember_body(owner, route: str, body: Any, job: Job) -> None:
    """Store the body so that `by_body` finds the job."""
    mark = fingerprint(body)
    row = IdempotencyKey(
        owner=owner, route=BY_BODY + route, key=mark, fingerprint=mark, job=job, created_at=Now()
    )
    IdempotencyKey.objects.bulk_create(
        [row],
        update_conflicts=True,
        unique_fields=["owner", "route", "key"],
        update_fields=["job", "created_at"],
    )


def forget_body(owner, route: str, body: Any) -> None:
    """Delete what `remember_body` stored for this body, so that `by_body` finds no job."""
    IdempotencyKey.objects.filter(
        owner=owner, route=BY_BODY + route, key=fingerprint(body)
    ).delete()


def by_body(owner, route: str, body: Any, *, seconds: float) -> Job | None:
    """Return the owner's job with this body from the last `seconds`, unless it failed, was canceled or purged."""
    rows = IdempotencyKey.objects.select_related("job").filter(
        owner=owner,
        route=BY_BODY + route,
        key=fingerprint(body),
        created_at__gte=Now() - timedelta(seconds=seconds),
        job__purged_at__isnull=True,
    )
    row = rows.exclude(job__status__in=(Job.Status.FAILED, Job.Status.CANCELED)).first()
    return row.job if row else None


def by_external_id(owner, external_id: str, *, body: Any, make: Callable[[str], Job]) -> Job:
    """Return the owner's job with this id from an earlier identical request, or make it.

    make: called with the fingerprint to store with the external id. Raises IdempotencyKeyReused if a different request
    made the job, and exceptions of `make`.
    """
    mark = fingerprint(body)
    known = Job.objects.filter(called(external_id), owner=owner)
    job = known.first()
    if job is None:
        try:
            with transaction.atomic():
                return make(mark)
        except IntegrityError:  # another process inserted the job first
            job = known.first()
            if job is None:
                raise
    if job.external_fingerprint != mark:
        raise IdempotencyKeyReused("Choose another id for another request.", parameter="id")
    return job


def old() -> QuerySet[IdempotencyKey]:
    """Return the rows older than KEPT."""
    return IdempotencyKey.objects.filter(created_at__lt=database.now() - KEPT)


def forget_old() -> int:
    """Delete the rows older than KEPT. Return how many."""
    return old().delete()[0]
