"""Payloads of webhook deliveries: rendered once, so that all attempts send the same bytes, and signed."""

import json
from collections.abc import Collection, Sequence

import structlog
from django.db import connection
from django.db.models import Prefetch, prefetch_related_objects
from django.utils import timezone

from generation.models import Delivery
from generation.webhooks import endpoints as webhooks
from generation.webhooks import predictions
from generation.webhooks.sender import Message

log = structlog.get_logger(__name__)

MAX_BODY_BYTES = 20_000
KEEP = """
UPDATE generation_delivery d SET body = r.body
  FROM unnest(%s::uuid[], %s::text[]) AS r(id, body) WHERE d.id = r.id
"""
MAX_ERROR = 1000  # characters of a job's error that are kept in an oversized body


def render(deliveries: Sequence[Delivery]) -> None:
    """Render and store missing bodies. One that fails is skipped and logged."""
    fresh = [delivery for delivery in deliveries if not delivery.body]
    jobs = predictions.ROWS.prefetch_related("images")
    prefetch_related_objects(fresh, Prefetch("job", jobs))
    for delivery in fresh:
        if delivery.job.purged_at is not None:  # just purged: its deliveries are being deleted
            continue
        try:
            delivery.body = body_of(delivery)
        except Exception:  # must not stop the other deliveries
            log.exception("webhook_not_rendered", delivery_id=str(delivery.pk))
    _keep([delivery for delivery in fresh if delivery.body])


def _keep(rendered: Sequence[Delivery]) -> None:
    """Store the bodies in one statement; bulk_update takes a millisecond per row."""
    if rendered:
        ids = [str(delivery.pk) for delivery in rendered]
        with connection.cursor() as cursor:
            cursor.execute(KEEP, [ids, [delivery.body for delivery in rendered]])


def body_of(delivery: Delivery, *, is_test: bool = False) -> str:
    """Return the payload: a prediction, compatible with receivers for Replicate, with the event's type and time.

    is_test: mark it as a test event.
    """
    job = delivery.job
    facts = {
        "type": f"prediction.{delivery.event}",
        "timestamp": delivery.created_at.isoformat().replace("+00:00", "Z"),
        **predictions.as_prediction(job, base_url=job.base_url, event=delivery.event),
    }
    if is_test:
        facts["is_test"] = True
    body = _as_text(facts)
    if len(body.encode()) > MAX_BODY_BYTES:
        # Too many images or too long an error. Receivers can read urls.get instead.
        error = (facts["error"] or "")[:MAX_ERROR] or None
        body = _as_text(facts | {"output": None, "error": error, "is_shortened": True})
    return body


def _as_text(facts: dict[str, object]) -> str:
    return json.dumps(facts, ensure_ascii=False, separators=(",", ":"))


def signed(deliveries: Collection[Delivery]) -> list[Message]:
    """Return signed messages in the same order."""
    now = timezone.now()
    known = webhooks.secrets_of(delivery.owner_id for delivery in deliveries)
    secrets = {owner: webhooks.signing(secret, now) for owner, secret in known.items()}
    return [
        Message(
            id=str(delivery.pk),
            url=delivery.endpoint.url,
            body=delivery.body.encode(),
            secrets=secrets[delivery.owner_id],
        )
        for delivery in deliveries
    ]
