"""Rows of worker processes."""

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
    release = models.ForeignKey(
        Release, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    loaded = ArrayField(
        models.BigIntegerField(), default=list, help_text="Ids of the loaded releases."
    )
    started_at = models.DateTimeField(default=timezone.now)
    heartbeat_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name
