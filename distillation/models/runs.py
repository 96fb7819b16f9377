"""Models of runs, slices and decisions. Status and lease are changed in `distillation.runs` only."""

from typing import Any

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.formats import date_format

from distillation.models.leases import lease_constraints
from generation.models import Release


class Run(models.Model):
    """One training from start to end: recipe × teacher × catalogue. Status, lease and token: `runs.lifecycle` only."""

    class Status(models.TextChoices):
        QUEUED = "queued"
        RUNNING = "running"
        PAUSED = "paused"
        SUCCEEDED = "succeeded"
        FAILED = "failed"
        CANCELED = "canceled"

    class Trigger(models.TextChoices):
        SCHEDULE = "schedule"
        PERSON = "person"

    class Policy(models.TextChoices):
        AUTO = "auto", "auto (activated if it passes the gate)"
        CANARY = "canary", "canary (first serves a share of the jobs)"
        MANUAL = "manual", "manual (activated by a person)"

    class Outcome(models.TextChoices):
        PENDING = "pending", "pending (not finished)"
        PROMOTED = "promoted", "promoted (activated)"
        CANARY = "canary", "canary (passed the gate, serves a share of the jobs)"
        WITHDRAWN = "withdrawn", "withdrawn (did worse than the active release)"
        CANDIDATE = "candidate", "candidate (a person decides)"
        REJECTED = "rejected", "rejected (by the gate or a person)"

    OPEN = (Status.QUEUED, Status.RUNNING, Status.PAUSED)

    name = models.SlugField(
        max_length=100, unique=True, help_text="Name of the release that the run makes."
    )
    recipe = models.JSONField(help_text='{"recipe": NAME, FIELD: VALUE, …}')
    teacher = models.ForeignKey(Release, on_delete=models.PROTECT, related_name="+")
    begins_with = models.ForeignKey(
        Release,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="Student that the run continues to train. Empty: a new one is cut from the teacher.",
    )
    catalogue = models.CharField(
        max_length=100,
        blank=True,
        help_text="Snapshot of the catalogue, named by the hash of its content.",
    )
    variants = models.PositiveIntegerField(
        default=0, help_text="Number of prompt variants in the snapshot."
    )
    tags = ArrayField(
        models.CharField(max_length=60),
        default=list,
        db_default=[],
        blank=True,
        help_text="Tags: the run is for prompt variants with one of them, and its release becomes a specialist.",
    )
    trigger = models.CharField(max_length=10, choices=Trigger, default=Trigger.PERSON)
    reasons = ArrayField(models.CharField(max_length=300), default=list, blank=True)
    policy = models.CharField(max_length=10, choices=Policy, default=Policy.AUTO)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )

    status = models.CharField(max_length=10, choices=Status, default=Status.QUEUED)
    token = models.PositiveIntegerField(
        default=0, help_text="The number of its last slice, which a result must present."
    )
    failures = models.PositiveIntegerField(
        default=0, help_text="Slices in a row that ended in an error or a lost worker."
    )
    not_before = models.DateTimeField(
        null=True, blank=True, help_text="Start of the next slice at the earliest."
    )
    lease_expires_at = models.DateTimeField(null=True, blank=True)
    worker_name = models.CharField(max_length=120, blank=True)
    stage = models.CharField(max_length=30, blank=True)
    percent = models.FloatField(default=0)
    folders = models.JSONField(
        default=dict, help_text="Folder of each stage, relative to the data folder of distillation."
    )
    error_code = models.CharField(max_length=40, blank=True)
    error_detail = models.TextField(blank=True)
    outcome = models.CharField(max_length=10, choices=Outcome, default=Outcome.PENDING)
    outcome_reason = models.CharField(max_length=300, blank=True, default="", db_default="")
    release = models.OneToOneField(
        Release, null=True, blank=True, on_delete=models.SET_NULL, related_name="run"
    )
    replaces = models.ForeignKey(
        Release,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="+",
        help_text="Active release that the evaluation compared it with.",
    )
    gate = models.JSONField(
        null=True, blank=True, help_text="Checks of the gate, each with its limit."
    )
    announced_at = models.DateTimeField(
        null=True,
        blank=True,
        help_text="When people were notified by mail that its release needs a decision.",
    )
    created_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at", "-pk"]
        constraints = [
            # One open run per teacher, whatever the schedule and people start.
            models.UniqueConstraint(
                fields=["teacher"],
                condition=Q(status__in=("queued", "running", "paused")),
                name="one_open_run_per_teacher",
            ),
            *lease_constraints("runs"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def is_open(self) -> bool:
        return self.status in self.OPEN

    @property
    def checks(self) -> list[dict[str, Any]]:
        """Return the checks of the gate; none before it ran."""
        return self.gate["checks"] if self.gate else []

    @property
    def prompts(self) -> dict[str, Any] | None:
        """Return what its release changes, prompt by prompt (`reports.prompt_changes`); None before the gate ran."""
        return self.gate.get("prompts") if self.gate else None

    @property
    def error(self) -> dict[str, str] | None:
        """Return the error of a failed run."""
        is_failed = self.status == self.Status.FAILED
        return {"code": self.error_code, "detail": self.error_detail} if is_failed else None


class Slice(models.Model):
    """One bounded piece of a run, executed by a worker."""

    class Outcome(models.TextChoices):
        RUNNING = "running"
        OVER = "over", "over (time limit reached; the next slice continues)"
        FINISHED = "finished", "finished (the run has finished)"
        FAILED = "failed"
        LOST = "lost", "lost (the lease expired)"
        STOPPED = "stopped", "stopped (the run was paused or canceled, or the worker shut down)"

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="slices")
    number = models.PositiveIntegerField()
    worker_name = models.CharField(max_length=120)
    stage = models.CharField(max_length=30, blank=True, help_text="Stage in which the slice ended.")
    percent = models.FloatField(default=0, help_text="Progress of the run at the end of the slice.")
    outcome = models.CharField(max_length=10, choices=Outcome, default=Outcome.RUNNING)
    error_detail = models.TextField(blank=True)
    started_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["number"]
        constraints = [models.UniqueConstraint(fields=["run", "number"], name="one_row_per_slice")]

    def __str__(self) -> str:
        return f"{self.run_id} #{self.number}"


class Decision(models.Model):
    """A decision whether to start a distillation run, with the reasons."""

    is_start = models.BooleanField()
    reasons = ArrayField(models.CharField(max_length=300), default=list)
    facts = models.JSONField()
    run = models.OneToOneField(
        Run, null=True, blank=True, on_delete=models.SET_NULL, related_name="decision"
    )
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-created_at", "-pk"]

    def __str__(self) -> str:
        verdict = "started" if self.is_start else "not started"
        return f"{verdict}, {date_format(self.created_at, 'DATETIME_FORMAT')}"
