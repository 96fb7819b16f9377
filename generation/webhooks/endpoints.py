"""Webhook endpoints and secrets, and the outbox of deliveries to send.

Deliveries are inserted in the transaction of the change they report; `generation.webhooks.delivery` sends them.
"""

import base64
import ipaddress
import re
import secrets
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from urllib.parse import urlsplit

import structlog
from django.conf import settings
from django.db import connection, transaction
from django.db.models import Count, F, Q
from django.db.models.functions import Now
from django.utils import timezone

from generation.errors import InvalidRequest, WebhookDisabled
from generation.infra import addresses, database, notifications
from generation.models import Delivery, Job, WebhookEndpoint, WebhookSecret

log = structlog.get_logger(__name__)

Event = Delivery.Event
Status = Delivery.Status
MAX_URL = 500
# For developers whose receiver runs on their own machine.
PRIVATE_HOSTS = (
    " A server for tests can allow http:// and private addresses: WEBHOOK_PRIVATE_HOSTS=true."
)
ROTATION = timedelta(hours=24)  # how long the previous secret signs as well
FORGOTTEN_AT_ONCE = 5000
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")


# --- endpoints ------------------------------------------------------------------------------------
def endpoint(owner, url: str) -> WebhookEndpoint:
    """Return the owner's endpoint at this URL; create it if missing. Raises InvalidRequest and WebhookDisabled."""
    _check(url)
    found, _ = WebhookEndpoint.objects.get_or_create(owner=owner, url=url)
    check_enabled(found)
    return found


def hold(job: Job, url: str) -> None:
    """Lock the job's endpoint against deletion until the transaction ends; create it again if it was just deleted."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT 1 FROM generation_webhookendpoint WHERE id = %s FOR KEY SHARE", [job.webhook_id]
        )
        is_there = cursor.fetchone() is not None
    if not is_there:
        job.webhook = endpoint(job.owner, url)


def forget_unused(pks: Iterable[int] | None = None) -> int:
    """Delete endpoints that no job refers to, of these or of all. Return how many."""
    rows = WebhookEndpoint.objects.filter(jobs__isnull=True)
    unused = rows.values_list("pk", flat=True) if pks is None else list(pks)
    if not unused:
        return 0
    with transaction.atomic():
        # Checked again under the lock, since a job that is being inserted locks its endpoint.
        locked = WebhookEndpoint.objects.select_for_update().filter(pk__in=list(unused))
        held = [row.pk for row in locked.order_by("pk")]
        return rows.filter(pk__in=held).delete()[0]


def check_events(events: Iterable[str] | None) -> list[str]:
    """Return the events without duplicates, in the order of Delivery.Event; None = all. Raises InvalidRequest."""
    asked = set(Event.values if events is None else events)
    if not asked or asked - set(Event.values):
        raise InvalidRequest(
            f"Give at least one of {', '.join(Event.values)}.", parameter="webhook_events"
        )
    return [event for event in Event.values if event in asked]


def _check(url: str) -> None:
    """Check the URL without a DNS lookup; the resolved IP address is checked when a connection is made."""
    fault = _fault(url)
    if fault:
        raise InvalidRequest(fault, parameter="webhook")


def _fault(url: str) -> str:
    if len(url) > MAX_URL:
        return f"The URL may have at most {MAX_URL} characters."
    if not re.fullmatch(r"[!-~]+", url) or "\\" in url:
        return "The URL has characters outside ASCII. Write host names as punycode, other characters as %XX."
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return f"The URL is not valid: {error}. Give a full URL such as https://example.com/hook."
    schemes = ("https", "http") if settings.WEBHOOK_PRIVATE_HOSTS else ("https",)
    if parts.scheme not in schemes:
        begin = " or ".join(f"{scheme}://" for scheme in schemes)
        hint = PRIVATE_HOSTS if parts.scheme == "http" else ""
        return f"The URL must begin with {begin}.{hint}"
    if parts.username is not None or parts.password is not None:
        return "The URL must not contain credentials. Verify the webhook-signature header instead."
    if "#" in url:
        return "The URL must not contain a fragment (#)."
    if port is not None and not _is_fit_port(port):
        return "The port must be 80, 443 or above 1023."
    return _fault_of_host(parts.hostname or "")


def _is_fit_port(port: int) -> bool:
    """Refuse privileged ports other than 80 and 443: no webhook receiver runs there."""
    return port in (80, 443) or port > 1023


def _fault_of_host(host: str) -> str:
    is_literal = ":" in host or re.fullmatch(r"[0-9.]+", host)
    if is_literal:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return f"{host} is not a valid IP address."
    elif not _NAME.fullmatch(host) or len(host) > 253:
        return "The URL has no valid host name. Give a full URL such as https://example.com/hook."
    if settings.WEBHOOK_PRIVATE_HOSTS:
        return ""
    is_local = host.rstrip(".").split(".")[-1] == "localhost"
    if is_local or (is_literal and not addresses.is_public(host)):
        return f"The URL must lead to a public IP address.{PRIVATE_HOSTS}"
    return ""


def check_enabled(found: WebhookEndpoint) -> None:
    """Raise WebhookDisabled if nothing is sent to the endpoint."""
    if found.disabled_at:
        raise WebhookDisabled(
            f"The webhook is disabled: {found.disabled_reason} "
            f"Enable it with POST /v1/webhooks/{found.pk}/enable."
        )


def enable(found: WebhookEndpoint) -> WebhookEndpoint:
    """Enable the endpoint and reset its failure state. Deliveries given up in the meantime can be replayed."""
    found.disabled_at = found.paused_until = found.failing_since = None
    found.disabled_reason, found.failures = "", 0
    found.save(
        update_fields=[
            "disabled_at", "paused_until", "failing_since", "disabled_reason", "failures",
        ]
    )  # fmt: skip
    log.info("webhook_enabled", endpoint=found.pk)
    transaction.on_commit(notifications.deliver, robust=True)
    return found


def disable(found: WebhookEndpoint, reason: str) -> WebhookEndpoint:
    """Disable the endpoint: no deliveries are sent, and jobs that name it are refused."""
    found.disabled_at, found.disabled_reason = timezone.now(), reason
    found.save(update_fields=["disabled_at", "disabled_reason"])
    log.warning("webhook_disabled", endpoint=found.pk, owner=found.owner_id, reason=reason)
    return found


def unsent(endpoints: Sequence[WebhookEndpoint]) -> dict[tuple[int, str], int]:
    """Count pending and dead deliveries by endpoint and status. All endpoints must belong to one owner."""
    if not endpoints:
        return {}
    rows = Delivery.objects.filter(
        owner_id=endpoints[0].owner_id,
        status__in=(Status.PENDING, Status.DEAD),
        endpoint__in=endpoints,
    )
    counts = rows.values_list("endpoint_id", "status").annotate(Count("pk")).order_by()
    return {(endpoint_id, status): count for endpoint_id, status, count in counts}


# --- secrets --------------------------------------------------------------------------------------
def _new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def secret_of(owner_id: int) -> WebhookSecret:
    """Return the owner's signing secret; create it if missing."""
    found, _ = WebhookSecret.objects.get_or_create(
        owner_id=owner_id, defaults={"secret": _new_secret()}
    )
    return found


def secrets_of(owner_ids: Iterable[int]) -> dict[int, WebhookSecret]:
    """Return signing secrets by owner; create the missing ones."""
    wanted = set(owner_ids)
    found = {row.owner_id: row for row in WebhookSecret.objects.filter(owner_id__in=wanted)}
    return found | {owner_id: secret_of(owner_id) for owner_id in wanted - set(found)}


def rotate(owner_id: int) -> WebhookSecret:
    """Replace the secret and return it. For ROTATION the previous one signs as well, for receivers to switch."""
    kept = secret_of(owner_id)
    WebhookSecret.objects.filter(pk=kept.pk).update(
        previous=F("secret"), secret=_new_secret(), rotated_at=Now()
    )
    log.info("webhook_secret_rotated", owner=owner_id)
    kept.refresh_from_db()
    return kept


def signing(secret: WebhookSecret, now: datetime) -> list[str]:
    """Return the secrets to sign with at this time, the current one first."""
    is_rotating = secret.previous and now < secret.rotated_at + ROTATION
    return [secret.secret, secret.previous] if is_rotating else [secret.secret]


# --- the outbox -----------------------------------------------------------------------------------
def ended(job: Job) -> bool:
    """Insert deliveries for a finished job, in the same transaction. Return whether there are any.

    The delivery for the start of a job is inserted by the claim.
    """
    events = [Event.COMPLETED]
    if job.status == Job.Status.SUCCEEDED:
        events.insert(0, Event.OUTPUT)
    return _write((job, event) for event in events)


def _write(events: Iterable[tuple[Job, Delivery.Event]]) -> bool:
    rows = [
        Delivery(
            owner_id=job.owner_id,
            endpoint_id=job.webhook_id,
            job_id=job.id,
            event=event,
            next_attempt_at=Now(),
            created_at=Now(),
        )
        for job, event in events
        if job.webhook_id is not None and event in job.webhook_events
    ]
    if rows:
        Delivery.objects.bulk_create(rows)
    return bool(rows)


def are_due() -> bool:
    return Delivery.objects.filter(status=Status.PENDING, next_attempt_at__lte=Now()).exists()


def replay(delivery: Delivery) -> Delivery:
    """Send a delivery again now, with the same id and body. A pending one is not changed. Raises WebhookDisabled."""
    with transaction.atomic():
        found = lock_enabled(delivery)
        ended = Delivery.objects.filter(~Q(status=Status.PENDING), pk=delivery.pk)
        moved = ended.update(
            status=Status.PENDING,
            attempts=0,
            next_attempt_at=Now(),
            last_status=None,
            last_error="",
            delivered_at=None,
        )
        if moved:
            resume(found, delivery)
    delivery.refresh_from_db()
    return delivery


def lock_enabled(delivery: Delivery) -> WebhookEndpoint:
    """Lock the delivery's endpoint until the transaction ends and return it. Raises WebhookDisabled."""
    found = WebhookEndpoint.objects.select_for_update(no_key=True).get(pk=delivery.endpoint_id)
    check_enabled(found)
    return found


def resume(found: WebhookEndpoint, delivery: Delivery) -> None:
    """End the pause of the endpoint to try one message: sending it by hand suggests that the receiver was repaired."""
    WebhookEndpoint.objects.filter(pk=found.pk).update(paused_until=None)
    transaction.on_commit(notifications.deliver, robust=True)
    log.info("webhook_replayed", delivery_id=str(delivery.pk), endpoint=found.pk)


def forget_old() -> int:
    """Delete deliveries that ended WEBHOOK_KEPT_DAYS ago. Return the number."""
    before = database.now() - timedelta(days=settings.WEBHOOK_KEPT_DAYS)
    old = Delivery.objects.filter(created_at__lt=before).exclude(status=Status.PENDING)
    forgotten = 0
    while ids := list(old.order_by("created_at").values_list("pk", flat=True)[:FORGOTTEN_AT_ONCE]):
        forgotten += Delivery.objects.filter(pk__in=ids).delete()[0]
    return forgotten
