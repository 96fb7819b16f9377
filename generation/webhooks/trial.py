"""Test events for trying a receiver: the message of the endpoint's latest ended job again, marked as a test."""

import structlog
from django.db import transaction

from generation.errors import InvalidRequest
from generation.infra import database, notifications
from generation.models import Delivery, Job, WebhookEndpoint
from generation.webhooks import endpoints as webhooks
from generation.webhooks import payload, predictions

log = structlog.get_logger(__name__)


def send(endpoint: WebhookEndpoint) -> Delivery:
    """Insert a due delivery of a test event and return it. Raises WebhookDisabled, or InvalidRequest if no job ended.

    A paused endpoint is tried at once, since a test suggests that the receiver was repaired.
    """
    with transaction.atomic():
        found = WebhookEndpoint.objects.select_for_update(no_key=True).get(pk=endpoint.pk)
        webhooks.check_enabled(found)
        kept = predictions.ROWS.filter(webhook=found, status__in=Job.TERMINAL, purged_at=None)
        # The lock waits for a purge in progress; a later purge removes the delivery.
        locked = kept.select_for_update(of=("self",), no_key=True)
        job = locked.prefetch_related("images").order_by("-created_at", "-id").first()
        if job is None:
            raise InvalidRequest(
                "The webhook has no ended job that is kept. Submit a job with it, and send the test when it has ended."
            )
        now = database.now()
        delivery = Delivery(
            owner_id=found.owner_id,
            endpoint=found,
            job=job,
            event=Delivery.Event.COMPLETED,
            next_attempt_at=now,
            created_at=now,
        )
        delivery.body = payload.body_of(delivery, is_test=True)
        delivery.save(force_insert=True)
        WebhookEndpoint.objects.filter(pk=found.pk).update(paused_until=None)
        transaction.on_commit(notifications.deliver, robust=True)
    log.info("webhook_tested", endpoint=found.pk, delivery_id=str(delivery.pk))
    return delivery
