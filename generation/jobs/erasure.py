"""Erasure of clients' texts and ids from rows and Redis when their jobs are purged.

The remaining columns tell which images were made (variant, release, seed, size), but not the words of the request.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from generation.catalogue import match_requests
from generation.infra import events
from generation.jobs import idempotency
from generation.models import NOT_ERASED, Delivery, IdempotencyKey, Job
from generation.webhooks import endpoints as webhooks
from generation.webhooks import predictions

BATCH = 200  # jobs in one transaction


@dataclass(frozen=True)
class Erased:
    """Remaining work after the commit. texts: matched texts of requests; endpoints: pks of the jobs' webhooks."""

    job_ids: Sequence[UUID] = ()
    texts: frozenset[str] = frozenset()
    endpoints: frozenset[int] = frozenset()


def erase(job_ids: Sequence[UUID]) -> Erased:
    """Erase the words of these jobs, which the caller's transaction has locked. Their webhook deliveries are deleted.

    Ids and idempotency keys chosen by clients become digests, so that a repeated request still makes no second job.
    """
    rows = list(Job.objects.filter(id__in=job_ids))
    Delivery.objects.filter(job_id__in=job_ids).delete()
    _erase_keys(job_ids)
    chosen = [row for row in rows if row.external_id]
    names = _digests(chosen)
    for row in chosen:
        row.external_id = names.get(row.id, "")
    Job.objects.bulk_update(chosen, ["external_id"])
    Job.objects.filter(id__in=job_ids).update(
        asked_text="", match_score=None, base_url="", webhook=None, webhook_events=[]
    )
    return Erased(
        job_ids,
        frozenset(row.asked_text for row in rows if row.asked_text),
        frozenset(row.webhook_id for row in rows if row.webhook_id is not None),
    )


def _erase_keys(job_ids: Sequence[UUID]) -> None:
    keys = list(IdempotencyKey.objects.filter(job_id__in=job_ids))
    IdempotencyKey.objects.filter(pk__in=[key.pk for key in keys]).delete()
    for key in keys:
        key.pk, key.key = None, idempotency.erased(key.key)
    IdempotencyKey.objects.bulk_create(keys, ignore_conflicts=True)


def _digests(rows: Sequence[Job]) -> dict[UUID, str]:
    """Return job → digest of its external id, except digests that an earlier job of the owner has."""
    wanted = {row.id: predictions.erased(row.external_id) for row in rows}
    others = Job.objects.filter(external_id__in=wanted.values()).exclude(id__in=wanted)
    taken = set(others.values_list("owner_id", "external_id"))
    owners = {row.id: row.owner_id for row in rows}
    return {pk: name for pk, name in wanted.items() if (owners[pk], name) not in taken}


def finish(erased: Erased) -> None:
    """Erase data outside the rows of the jobs, after the commit. After an interruption the sweep does it."""
    events.forget(erased.job_ids)
    match_requests.forget(erased.texts)
    webhooks.forget_unused(erased.endpoints)


def leftovers() -> list[UUID]:
    """Return ids of some purged jobs whose words still exist, for example purged by older code."""
    return list(Job.objects.filter(NOT_ERASED).values_list("id", flat=True)[:BATCH])
