"""Rows of access: API keys, their usage, and the audit log. One-row methods only."""

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from datetime import timedelta

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone


class APIKeyManager(models.Manager["APIKey"]):
    def issue(
        self,
        owner,
        name: str,
        scopes: list[str],
        *,
        secret: str = "",
        expires_at=None,
        limits: Mapping[str, int | None] | None = None,
    ) -> tuple["APIKey", str]:
        """Return a new key and its plain text `rt_<prefix>_<secret>`, which is not stored. limits: by field."""
        plain = secret or f"rt_{secrets.token_hex(4)}_{secrets.token_urlsafe(32)}"
        key = self.create(
            owner=owner,
            name=name,
            scopes=scopes,
            expires_at=expires_at,
            prefix=APIKey.prefix_of(plain),
            sha256=hashlib.sha256(plain.encode()).hexdigest(),
            **(limits or {}),
        )
        return key, plain


class APIKey(models.Model):
    """A client's key: prefix to find it, SHA-256 of 256 random bits to check it. Jobs belong to its owner."""

    class Scope(models.TextChoices):
        JOBS_WRITE = "jobs:write", "create and cancel jobs"
        JOBS_READ = "jobs:read", "read jobs and images"
        VARIANTS_READ = "variants:read", "read the catalogue"
        VARIANTS_WRITE = "variants:write", "change the catalogue"
        RELEASES_READ = "releases:read", "read releases and how they are made"
        RELEASES_WRITE = "releases:write", "make releases"
        QUEUES_WRITE = "queues:write", "see, pause and resume queues"

    ACTIVE, EXPIRED, REVOKED = "active", "expired", "revoked"

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="api_keys"
    )
    name = models.CharField(max_length=100)
    prefix = models.CharField(max_length=20, unique=True, editable=False)
    sha256 = models.CharField(max_length=64, editable=False)
    scopes = ArrayField(models.CharField(max_length=20, choices=Scope))
    weight = models.PositiveSmallIntegerField(
        default=1,
        validators=[MinValueValidator(1), MaxValueValidator(100)],
        help_text="Images of its owner in each turn: with 2, twice as many as for an owner with 1.",
    )
    requests_per_minute = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="Empty: the limit of the account, else the setting REQUESTS_PER_MINUTE. 0: no limit of this key.",
    )
    images_per_day = models.PositiveIntegerField(
        null=True, blank=True, help_text="Per day in UTC. Empty: no limit."
    )
    device_seconds_per_day = models.PositiveIntegerField(
        null=True, blank=True, help_text="Jobs are refused when it is used up. Empty: no limit."
    )
    max_queued_jobs = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="Jobs of this key that may be queued at once. Empty: no limit.",
    )
    retention_days = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="Days after which images of its jobs are removed. Empty: the setting RETENTION_DAYS. 0: never.",
    )
    replaced_by = models.OneToOneField(
        "self",
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="replaces",
        editable=False,
        help_text="The key that replaces this one.",
    )
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = APIKeyManager()

    class Meta:
        ordering = ["-created_at"]
        verbose_name = "API key"

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    @staticmethod
    def prefix_of(plain: str) -> str:
        return "_".join(plain.split("_", 2)[:2])

    @property
    def state(self) -> str:
        if self.revoked_at is not None:
            return self.REVOKED
        if self.expires_at is not None and self.expires_at <= timezone.now():
            return self.EXPIRED
        return self.ACTIVE

    def matches(self, plain: str) -> bool:
        """Return whether `plain` is this key and the key is neither revoked nor expired."""
        good = hmac.compare_digest(self.sha256, hashlib.sha256(plain.encode()).hexdigest())
        return good and self.state == self.ACTIVE

    def touch(self) -> None:
        """Record the time of use, at most once a minute, to avoid a write per request."""
        now = timezone.now()
        if self.last_used_at and self.last_used_at > now - timedelta(minutes=1):
            return
        stale = Q(last_used_at__isnull=True) | Q(last_used_at__lt=now - timedelta(minutes=1))
        APIKey.objects.filter(stale, pk=self.pk).update(last_used_at=now)
        self.last_used_at = now


class OwnerLimits(models.Model):
    """Limits of a person, for all their keys and the page together. A key may have narrower ones."""

    owner = models.OneToOneField(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, primary_key=True, related_name="limits"
    )
    requests_per_minute = models.PositiveIntegerField(
        null=True, blank=True, help_text="Empty: the setting REQUESTS_PER_MINUTE. 0: no limit."
    )
    images_per_day = models.PositiveIntegerField(
        null=True, blank=True, help_text="Per day in UTC. Empty: no limit."
    )
    device_seconds_per_day = models.PositiveIntegerField(
        null=True, blank=True, help_text="Jobs are refused when it is used up. Empty: no limit."
    )
    max_queued_jobs = models.PositiveIntegerField(
        null=True, blank=True, help_text="Jobs that may be queued at once. Empty: no limit."
    )

    class Meta:
        verbose_name = verbose_name_plural = "limits of a person"

    def __str__(self) -> str:
        return str(self.owner)


class DailyUsage(models.Model):
    """Usage of a key or a person on one day (UTC). Counted in `generation.access.quotas`."""

    day = models.DateField()
    images = models.PositiveIntegerField(default=0, help_text="Requested.")
    device_seconds = models.FloatField(default=0)

    class Meta:
        abstract = True


class Usage(DailyUsage):
    """Usage of a key."""

    api_key = models.ForeignKey(
        APIKey, on_delete=models.CASCADE, related_name="usage", db_index=False
    )

    class Meta:
        ordering = ["-day"]
        verbose_name_plural = "usage"
        constraints = [models.UniqueConstraint(fields=["api_key", "day"], name="one_usage_per_day")]

    def __str__(self) -> str:
        return f"{self.api_key_id} {self.day}"


class OwnerUsage(DailyUsage):
    """Usage of a person, by all their keys and on the page."""

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.CASCADE,
        related_name="usage",
        db_index=False,  # the constraint's index begins with it
    )

    class Meta:
        ordering = ["-day"]
        verbose_name_plural = "usage of persons"
        constraints = [
            models.UniqueConstraint(fields=["owner", "day"], name="one_usage_per_owner_and_day")
        ]

    def __str__(self) -> str:
        return f"{self.owner_id} {self.day}"


class AuditEntry(models.Model):
    """A change of a key, a release or the catalogue, with its author and time. `generation.access.audit` inserts it."""

    at = models.DateTimeField(default=timezone.now, editable=False)
    actor = models.CharField(
        max_length=150, help_text="Name of the user; empty: a process of Retort."
    )
    via = models.CharField(max_length=10, help_text="admin, command, api or schedule")
    action = models.CharField(max_length=40)
    subject = models.CharField(
        max_length=160, help_text="Row that was changed, such as a key or a release."
    )
    detail = models.JSONField(default=dict, blank=True)

    class Meta:
        ordering = ["-at", "-id"]
        verbose_name_plural = "audit log"
        indexes = [models.Index(fields=["-at", "-id"], name="audit_newest")]

    def __str__(self) -> str:
        return f"{self.action} {self.subject}"
