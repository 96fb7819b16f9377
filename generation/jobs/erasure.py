"""Erasure of what clients wrote in requests, from rows and from Redis, when their jobs are purged.

What stays says which images were made (variant, release, seed, size), not in which words they were asked for.
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
    """What is left to do after the commit. texts: that were matched; endpoints: pks of webhooks of the jobs."""

    job_ids: Sequence[UUID] = ()
    texts: frozenset[str] = frozenset()
    endpoints: frozenset[int] = frozenset()


def erase(job_ids: Sequence[UUID]) -> Erased:
    """Erase the words of these jobs, which are locked, in a transaction. Deliveries that are pending are not sent.

    Ids and idempotency keys that clients chose become digests: the same request still makes no second job.
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
    """Return the digests of chosen ids by job, without those that an earlier job of the owner has already."""
    wanted = {row.id: predictions.erased(row.external_id) for row in rows}
    others = Job.objects.filter(external_id__in=wanted.values()).exclude(id__in=wanted)
    taken = set(others.values_list("owner_id", "external_id"))
    owners = {row.id: row.owner_id for row in rows}
    return {pk: name for pk, name in wanted.items() if (owners[pk], name) not in taken}


def finish(erased: Erased) -> None:
    """Erase what is not in the rows of the jobs, after their commit. What an interruption leaves goes by the sweep."""
    events.forget(erased.job_ids)
    match_requests.forget(erased.texts)
    webhooks.forget_unused(erased.endpoints)


def leftovers() -> list[UUID]:
    """Return ids of some purged jobs whose words are still there, such as those that older code purged."""
    return list(Job.objects.filter(NOT_ERASED).values_list("id", flat=True)[:BATCH])
