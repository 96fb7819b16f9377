"""Rows of worker processes, and of the queues that they consume."""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone

from generation.models.releases import Release


class Worker(models.Model):
    """A process that consumes one queue. A thread writes its heartbeat, so a busy worker has one too."""

    name = models.CharField(max_length=120, unique=True)
    queue = models.CharField(max_length=20)
    hostname = models.CharField(max_length=120)
    pid = models.PositiveIntegerField()
    device = models.CharField(max_length=60, blank=True)
    devices = ArrayField(
        models.CharField(max_length=20),
        default=list,
        db_default=[],
        help_text="Devices of its machine; only distillation workers report them.",
    )
    release = models.ForeignKey(
        Release, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    loaded = ArrayField(
        models.BigIntegerField(), default=list, help_text="Ids of the loaded releases."
    )
    batch_seconds = models.JSONField(
        default=dict,
        db_default={},
        help_text="Measured seconds of batches, median and 90th percentile, by release, size and number of images.",
    )
    started_at = models.DateTimeField(default=timezone.now)
    heartbeat_at = models.DateTimeField(default=timezone.now)
    fault = models.CharField(
        max_length=40,
        blank=True,
        default="",
        db_default="",
        help_text="Code of the fault that prevents it from claiming jobs. Empty: no fault.",
    )
    fault_detail = models.TextField(blank=True, default="", db_default="")
    faulty_since = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Queue(models.Model):
    """State of a queue of jobs, set by people. A queue without a row is running."""

    name = models.CharField(max_length=20, primary_key=True)
    paused_at = models.DateTimeField(
        null=True, blank=True, help_text="When the queue was paused. Empty: it is not paused."
    )
    paused_by = models.CharField(max_length=150, blank=True)
    reason = models.CharField(max_length=200, blank=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name
