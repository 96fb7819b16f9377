"""Rows of webhooks: endpoints, signing secrets, and messages to deliver."""

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone


class WebhookSecret(models.Model):
    """Secret that signs the messages to one owner. After a rotation the previous one also signs for a while."""

    owner = models.OneToOneField(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="webhook_secret"
    )
    secret = models.CharField(max_length=120, help_text="whsec_ and base64 of random bytes.")
    previous = models.CharField(max_length=120, blank=True)
    rotated_at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return f"of {self.owner_id}"


class WebhookEndpoint(models.Model):
    """A URL of an owner, created by the first job that names it, with its failures."""

    class State(models.TextChoices):
        ACTIVE = "active"
        PAUSED = "paused"
        DISABLED = "disabled"

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="webhook_endpoints"
    )
    url = models.CharField(max_length=500)
    failures = models.PositiveIntegerField(default=0, help_text="Consecutive failures.")
    failing_since = models.DateTimeField(
        null=True, blank=True, help_text="Time of the first of the consecutive failures."
    )
    paused_until = models.DateTimeField(
        null=True,
        blank=True,
        help_text="No delivery is sent before this time, after consecutive failures.",
    )
    disabled_at = models.DateTimeField(null=True, blank=True)
    disabled_reason = models.CharField(max_length=200, blank=True)
    last_success_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-created_at"]
        verbose_name = "webhook"
        constraints = [
            models.UniqueConstraint(fields=["owner", "url"], name="one_endpoint_per_owner_and_url")
        ]

    def __str__(self) -> str:
        return self.url

    @property
    def state(self) -> str:
        if self.disabled_at:
            return self.State.DISABLED
        is_paused = self.paused_until is not None and self.paused_until > timezone.now()
        return self.State.PAUSED if is_paused else self.State.ACTIVE


class Delivery(models.Model):
    """A message to an endpoint, inserted in the transaction of the change that it reports (outbox)."""

    class Event(models.TextChoices):
        START = "start"
        OUTPUT = "output"
        COMPLETED = "completed"

    class Status(models.TextChoices):
        PENDING = "pending"
        DELIVERED = "delivered"
        DEAD = "dead", "dead (given up)"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.CASCADE,
        related_name="deliveries",
        db_index=False,  # delivery_of_owner begins with it
        help_text="Owner of the webhook.",
    )
    endpoint = models.ForeignKey(
        WebhookEndpoint,
        on_delete=models.CASCADE,
        related_name="deliveries",
        verbose_name="webhook",
    )
    job = models.ForeignKey("generation.Job", on_delete=models.CASCADE, related_name="deliveries")
    event = models.CharField(max_length=10, choices=Event)
    body = models.TextField(blank=True, help_text="The signed bytes; written at the first attempt.")
    status = models.CharField(max_length=10, choices=Status, default=Status.PENDING)
    attempts = models.PositiveIntegerField(default=0)
    next_attempt_at = models.DateTimeField(default=timezone.now)
    last_status = models.PositiveIntegerField(null=True, blank=True, help_text="HTTP status.")
    last_error = models.CharField(max_length=300, blank=True)
    attempt_log = models.JSONField(
        default=list,
        db_default=[],
        blank=True,
        help_text="Latest attempts with an outcome, oldest first: time, HTTP status, error.",
    )
    created_at = models.DateTimeField(default=timezone.now)
    delivered_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        verbose_name = "webhook delivery"
        verbose_name_plural = "webhook deliveries"
        indexes = [
            models.Index(
                fields=["next_attempt_at"], condition=Q(status="pending"), name="delivery_due"
            ),
            models.Index(fields=["-created_at"], name="delivery_newest"),
            models.Index(fields=["owner", "-created_at", "-id"], name="delivery_of_owner"),
            models.Index(
                fields=["owner", "status", "-created_at", "-id"],
                condition=Q(status__in=("pending", "dead")),
                name="delivery_open",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.event} of {self.job_id}"
