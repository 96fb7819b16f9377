"""Rows of stocked images, which idle workers make in advance, each for one future job."""

from django.db import models
from django.utils import timezone

from generation.models.catalogue import Embedding, PromptVariant
from generation.models.releases import Release


class StockedImage(models.Model):
    """An image with an unused seed that belongs to no job yet. The job that uses it deletes the row."""

    release = models.ForeignKey(Release, on_delete=models.CASCADE, related_name="+")
    variant = models.ForeignKey(PromptVariant, on_delete=models.CASCADE, related_name="+")
    embedding = models.ForeignKey(Embedding, on_delete=models.CASCADE, related_name="+")
    width = models.PositiveIntegerField()
    height = models.PositiveIntegerField()
    format = models.CharField(max_length=5)
    max_tries = models.PositiveSmallIntegerField(default=0)
    file = models.CharField(max_length=200, db_index=True)
    master = models.CharField(max_length=200, db_index=True)
    size_bytes = models.PositiveIntegerField(help_text="Size of both files together.")
    image = models.JSONField(help_text="Values of the image's row once a job gets it.")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-created_at"]
        verbose_name = "stocked image"
        verbose_name_plural = "stock"

    def __str__(self) -> str:
        return str(self.image.get("seed", ""))
