"""Models of designs and their candidates. Status and lease are changed in `distillation.designs.lifecycle` only."""

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone

from distillation.design.limits import AUTO, BEST, MAX_DEVICE, WISHES
from distillation.models.leases import lease_constraints
from generation.models import Release


class Design(models.Model):
    """A search for a student within limits. Several processes may work on one; its candidates are rows."""

    class Status(models.TextChoices):
        QUEUED = "queued"
        RUNNING = "running"
        PAUSED = "paused", "paused (the command that began it was stopped)"
        SUCCEEDED = "succeeded"
        FAILED = "failed"
        CANCELED = "canceled"

    OPEN = (Status.QUEUED, Status.RUNNING, Status.PAUSED)

    key = models.CharField(
        max_length=16, db_index=True, help_text="Hash of the request without its hours."
    )
    recipe = models.JSONField(help_text='{"recipe": NAME, FIELD: VALUE, …}')
    teacher = models.ForeignKey(Release, on_delete=models.PROTECT, related_name="+")
    student = models.ForeignKey(
        Release,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="+",
        help_text="Student that the chosen one is compared with.",
    )
    limits = models.JSONField(
        default=dict, help_text="size, memory: bytes; time: seconds; quality: a ratio."
    )
    device = models.CharField(max_length=MAX_DEVICE, default=AUTO)
    wish = models.CharField(max_length=10, choices=[(wish, wish) for wish in WISHES], default=BEST)
    hours = models.FloatField(help_text="Maximum working time in hours.")
    most_candidates = models.PositiveIntegerField(
        default=0, help_text="Maximum number of candidates. 0: no limit but the time."
    )
    tags = ArrayField(models.CharField(max_length=60), default=list, blank=True)
    is_for_workers = models.BooleanField(
        default=False, help_text="Executed by workers. Otherwise by the command that created it."
    )
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )

    status = models.CharField(max_length=10, choices=Status, default=Status.QUEUED)
    catalogue = models.CharField(max_length=100, blank=True, help_text="Snapshot of the catalogue.")
    seconds = models.FloatField(default=0, help_text="Working time of all processes together.")
    percent = models.FloatField(default=0)
    at_work = models.CharField(max_length=200, blank=True, help_text="Current activity.")
    worker_name = models.CharField(max_length=120, blank=True)
    lease_expires_at = models.DateTimeField(null=True, blank=True)
    choice = models.PositiveIntegerField(
        null=True, blank=True, help_text="Number of the chosen candidate."
    )
    reason = models.TextField(blank=True)
    error_detail = models.TextField(blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at", "-pk"]
        constraints = lease_constraints("designs")

    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        return f"design-{self.pk}"

    @property
    def is_open(self) -> bool:
        return self.status in self.OPEN


class DesignCandidate(models.Model):
    """A candidate of a design: see `distillation.design.candidates`."""

    design = models.ForeignKey(Design, on_delete=models.CASCADE, related_name="candidates")
    number = models.PositiveIntegerField()
    params = models.JSONField()
    costs = models.JSONField(null=True, blank=True)
    rungs = models.JSONField(default=list)
    refused = models.TextField(blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["number"]
        constraints = [
            models.UniqueConstraint(fields=["design", "number"], name="one_row_per_candidate")
        ]

    def __str__(self) -> str:
        return f"{self.design_id} #{self.number}"
