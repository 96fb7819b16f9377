"""Outbox of deliveries: claiming due ones under a lease, recording results, and sending waiting ones by hand.

Contains the retry schedule and the rules by which an endpoint is paused or disabled.
"""

import random
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from django.db import transaction
from django.db.models import F, Func, JSONField, QuerySet, Value
from django.db.models.functions import Now

from generation.infra import database, metrics
from generation.models import Delivery, WebhookEndpoint
from generation.webhooks import endpoints as webhooks
from generation.webhooks.sender import Answer

log = structlog.get_logger(__name__)

Status = Delivery.Status
# Seconds from a failed attempt to the next; after the tenth a delivery is given up.
DELAYS = (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
JITTER = 0.2  # at most this share of a delay is added
MAX_RETRY_AFTER = 86400.0

IN_FLIGHT = 200
IN_FLIGHT_OF_OWNER = 50
IN_FLIGHT_OF_ENDPOINT = 16  # without failures
IN_FLIGHT_AFTER_FAILURE = 4
BREAKS_AT = 5  # consecutive failures, after which the endpoint pauses
PAUSE_SECONDS, MAX_PAUSE_SECONDS = 30.0, 3600.0  # doubled at each failure
THROTTLES = (429, 502, 503, 504)
THROTTLE_SECONDS = 10.0  # without a Retry-After
DISABLED_AFTER = timedelta(days=5)
GONE = 410

WINDOW = 100  # deliveries per query
AT_ONCE = 5000  # deliveries postponed or given up per statement
LEASE_SECONDS = 30  # longer than an attempt takes
SUCCESS_SECONDS = 10  # minimum interval for recording successes on an endpoint
MAX_ERROR = 300
KEPT_ATTEMPTS = 20  # in a delivery's log; a replay adds to it

TAKE = """
WITH taken AS (
    SELECT id FROM generation_delivery
     WHERE id = ANY(%(ids)s::uuid[]) AND status = 'pending' AND next_attempt_at <= statement_timestamp()
       FOR UPDATE SKIP LOCKED
)
UPDATE generation_delivery d
   SET attempts = attempts + 1, next_attempt_at = statement_timestamp() + %(lease)s * interval '1 second'
  FROM taken WHERE d.id = taken.id
RETURNING d.*
"""


@dataclass
class Shares:
    """Deliveries in flight in this process, and the limits of endpoints as last read."""

    endpoints: Counter[int] = field(default_factory=Counter)
    owners: Counter[int] = field(default_factory=Counter)
    most: dict[int, int] = field(default_factory=dict)

    def begin(self, delivery: Delivery) -> None:
        self.endpoints[delivery.endpoint_id] += 1
        self.most[delivery.endpoint_id] = _most_in_flight(delivery.endpoint)
        self.owners[delivery.owner_id] += 1

    def end(self, delivery: Delivery) -> None:
        for counts, pk in (
            (self.endpoints, delivery.endpoint_id),
            (self.owners, delivery.owner_id),
        ):
            counts[pk] -= 1
            if not counts[pk]:
                del counts[pk]
        if delivery.endpoint_id not in self.endpoints:
            self.most.pop(delivery.endpoint_id, None)

    def free(self) -> int:
        return IN_FLIGHT - self.owners.total()

    def has_room(self, delivery: Delivery) -> bool:
        most = _most_in_flight(delivery.endpoint)
        if delivery.endpoint_id in self.endpoints:
            self.most[delivery.endpoint_id] = most  # the endpoint may have failed since
        return (
            self.free() > 0
            and self.owners[delivery.owner_id] < IN_FLIGHT_OF_OWNER
            and self.endpoints[delivery.endpoint_id] < most
        )

    def full_endpoints(self) -> list[int]:
        return [pk for pk, number in self.endpoints.items() if number >= self.most[pk]]

    def full_owners(self) -> list[int]:
        return [pk for pk, number in self.owners.items() if number >= IN_FLIGHT_OF_OWNER]


# --- taking ---------------------------------------------------------------------------------------
def take(shares: Shares) -> tuple[list[Delivery], bool]:
    """Lease due deliveries and count them in `shares`. Return them, and whether to call this again at once.

    Deliveries of paused endpoints are postponed and those of disabled ones given up, so that they do not block others.
    """
    due = Delivery.objects.filter(status=Status.PENDING, next_attempt_at__lte=Now())
    due = due.exclude(endpoint_id__in=shares.full_endpoints())
    due = due.exclude(owner_id__in=shares.full_owners()).order_by("next_attempt_at")
    rows = list(due.select_related("endpoint").defer("body")[:WINDOW])
    now = database.now()
    chosen: list[Delivery] = []
    closed: dict[int, WebhookEndpoint] = {}
    for row in rows:
        endpoint = row.endpoint
        if endpoint.disabled_at or (endpoint.paused_until and endpoint.paused_until > now):
            closed[endpoint.pk] = endpoint
        elif shares.has_room(row):
            shares.begin(row)
            chosen.append(row)
    for endpoint in closed.values():
        if endpoint.disabled_at:
            _give_up(endpoint)
        else:
            _due_of(endpoint).update(next_attempt_at=endpoint.paused_until)
    taken = _lease(chosen)
    held = {delivery.pk for delivery in taken}
    for row in chosen:
        if row.pk not in held:  # claimed by another process
            shares.end(row)
    return taken, len(rows) == WINDOW and shares.free() > 0


def _most_in_flight(endpoint: WebhookEndpoint) -> int:
    if endpoint.failures >= BREAKS_AT:
        return 1
    return IN_FLIGHT_AFTER_FAILURE if endpoint.failures else IN_FLIGHT_OF_ENDPOINT


def _lease(rows: Sequence[Delivery]) -> list[Delivery]:
    if not rows:
        return []
    endpoints = {row.endpoint_id: row.endpoint for row in rows}
    parameters = {"ids": [str(row.pk) for row in rows], "lease": LEASE_SECONDS}
    taken = list(Delivery.objects.raw(TAKE, parameters))
    for delivery in taken:
        delivery.endpoint = endpoints[delivery.endpoint_id]
    return taken


def _give_up(endpoint: WebhookEndpoint) -> None:
    error = f"The webhook is disabled: {endpoint.disabled_reason}"
    count = _due_of(endpoint).update(status=Status.DEAD, last_error=error[:MAX_ERROR])
    log.warning("webhooks_given_up", endpoint=endpoint.pk, count=count, error=error)
    metrics.increment("retort_webhooks_total", count, outcome="dead")


def _due_of(endpoint: WebhookEndpoint) -> QuerySet[Delivery]:
    """Return the endpoint's due deliveries, at most AT_ONCE."""
    due = Delivery.objects.filter(
        endpoint=endpoint, status=Status.PENDING, next_attempt_at__lte=Now()
    )
    first = due.order_by("next_attempt_at").values("pk")[:AT_ONCE]
    return Delivery.objects.filter(pk__in=first, status=Status.PENDING, next_attempt_at__lte=Now())


def give_back(deliveries: Iterable[Delivery]) -> None:
    """Release the lease on unsent deliveries without counting an attempt."""
    for delivery in deliveries:
        _held(delivery).update(attempts=F("attempts") - 1, next_attempt_at=Now())


def _held(delivery: Delivery) -> QuerySet[Delivery]:
    """Return the row as a queryset, empty unless this attempt (the fencing token) still holds the lease."""
    rows = Delivery.objects.filter(pk=delivery.pk, status=Status.PENDING)
    return rows.filter(attempts=delivery.attempts)


# --- results --------------------------------------------------------------------------------------
def note(ended: Collection[tuple[Delivery, Answer]]) -> None:
    """Record the responses on the deliveries and on their endpoints."""
    now = database.now()
    amounts: Counter[str] = Counter()
    with transaction.atomic():
        # A lock that does not block inserts of jobs that refer to the endpoint.
        locked = WebhookEndpoint.objects.select_for_update(no_key=True).order_by("pk")
        endpoints = locked.in_bulk({delivery.endpoint_id for delivery, _ in ended})
        _delivered([(delivery, answer) for delivery, answer in ended if answer.is_success], now)
        for delivery, answer in ended:
            endpoint = endpoints.get(delivery.endpoint_id)
            if endpoint is None:  # deleted with its last job, together with the delivery
                continue
            if answer.is_success:
                outcome = "delivered"
                _endpoint_succeeded(endpoint, now)
                waited = (now - delivery.created_at).total_seconds()
                amounts.update(metrics.observed("retort_webhook_seconds", waited))
            else:
                outcome = _failed(delivery, answer, now)
                _endpoint_failed(endpoint, answer, now)
            amounts.update(metrics.counted("retort_webhooks_total", outcome=outcome))
    metrics.add(amounts)


def _delivered(ended: Iterable[tuple[Delivery, Answer]], now: datetime) -> None:
    """Update the deliveries, grouped by equal values, usually all in one statement."""
    alike: dict[tuple[int | None, int], list[UUID]] = {}
    for delivery, answer in ended:
        alike.setdefault((answer.status, delivery.attempts), []).append(delivery.pk)
        log.info("webhook_delivered", **_facts(delivery), http_status=answer.status)
    for (status, attempts), ids in alike.items():
        held = Delivery.objects.filter(pk__in=ids, status=Status.PENDING, attempts=attempts)
        held.update(
            status=Status.DELIVERED,
            delivered_at=now,
            last_status=status,
            last_error="",
            attempt_log=_logged(Answer(status), now),
        )


def _failed(delivery: Delivery, answer: Answer, now: datetime) -> str:
    result = {
        "last_status": answer.status,
        "last_error": answer.error[:MAX_ERROR],
        "attempt_log": _logged(answer, now),
    }
    if answer.status == GONE or delivery.attempts > len(DELAYS):
        _held(delivery).update(status=Status.DEAD, **result)
        log.warning("webhook_dead", **_facts(delivery), error=answer.error)
        return "dead"
    seconds = DELAYS[delivery.attempts - 1] * (1 + random.uniform(0, JITTER))
    seconds = max(seconds, _asked_for(answer))
    _held(delivery).update(next_attempt_at=now + timedelta(seconds=seconds), **result)
    log.info("webhook_failed", **_facts(delivery), error=answer.error, again_in=round(seconds))
    return "failed"


def _logged(answer: Answer, now: datetime) -> Func:
    """Return the expression of the attempt log with this attempt, shortened to the latest KEPT_ATTEMPTS."""
    entry = {"at": now.isoformat(), "status": answer.status, "error": answer.error[:MAX_ERROR]}
    return Func(
        F("attempt_log"),
        Value([entry], JSONField()),
        template=f"jsonb_path_query_array(%(expressions)s, '$[last - {KEPT_ATTEMPTS - 1} to last]')",
        arg_joiner=" || ",
        output_field=JSONField(),
    )


def _asked_for(answer: Answer) -> float:
    return min(answer.retry_after or 0.0, MAX_RETRY_AFTER)


def _endpoint_succeeded(endpoint: WebhookEndpoint, now: datetime) -> None:
    last = endpoint.last_success_at
    is_noted = last is not None and now - last < timedelta(seconds=SUCCESS_SECONDS)
    if is_noted and not endpoint.failures and not endpoint.paused_until:
        return
    endpoint.failures, endpoint.failing_since, endpoint.paused_until = 0, None, None
    endpoint.last_success_at = now
    endpoint.save(update_fields=["failures", "failing_since", "paused_until", "last_success_at"])


def _endpoint_failed(endpoint: WebhookEndpoint, answer: Answer, now: datetime) -> None:
    if endpoint.disabled_at:
        return
    if answer.status == GONE:
        webhooks.disable(endpoint, "The response was 410 Gone.")
        return
    if endpoint.paused_until and endpoint.paused_until > now:
        return  # sent before the pause: the same failure
    endpoint.failures += 1
    endpoint.failing_since = endpoint.failing_since or now
    endpoint.paused_until = _pause(endpoint.failures, answer, now)
    endpoint.save(update_fields=["failures", "failing_since", "paused_until"])
    if endpoint.failures >= BREAKS_AT and now - endpoint.failing_since >= DISABLED_AFTER:
        webhooks.disable(endpoint, f"All deliveries failed for {DISABLED_AFTER.days} days.")


def _pause(failures: int, answer: Answer, now: datetime) -> datetime | None:
    seconds = 0.0
    if failures >= BREAKS_AT:
        doubled = PAUSE_SECONDS * 2 ** min(failures - BREAKS_AT, 20)
        seconds = min(doubled, MAX_PAUSE_SECONDS) * (1 + random.uniform(0, JITTER))
    if answer.status in THROTTLES:
        seconds = max(seconds, _asked_for(answer) or THROTTLE_SECONDS)
    return now + timedelta(seconds=seconds) if seconds else None


def _facts(delivery: Delivery) -> dict[str, object]:
    return {
        "delivery_id": str(delivery.pk),
        "job_id": str(delivery.job_id),
        "endpoint": delivery.endpoint_id,
        "kind": delivery.event,
        "attempt": delivery.attempts,
    }


# --- by hand --------------------------------------------------------------------------------------
def send_now(delivery: Delivery) -> bool:
    """Send a delivery now. One that waits does not wait for its next attempt; one that ended is sent again.

    Return False if an attempt may be in progress or is due within LEASE_SECONDS; nothing changes then. Raises
    WebhookDisabled.
    """
    if delivery.status != Status.PENDING:
        webhooks.replay(delivery)
        return True
    with transaction.atomic():
        endpoint = webhooks.lock_enabled(delivery)
        # A lease ends within LEASE_SECONDS.
        waiting = Delivery.objects.filter(
            pk=delivery.pk,
            status=Status.PENDING,
            next_attempt_at__gt=Now() + timedelta(seconds=LEASE_SECONDS),
        )
        moved = waiting.update(next_attempt_at=Now())
        if moved:
            webhooks.resume(endpoint, delivery)
    return bool(moved)
