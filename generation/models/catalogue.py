"""Rows of the catalogue: prompt variants and their embeddings. One-row methods only."""

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from generation.engine.request import StoredEmbedding
from generation.models.releases import FLOOR, SHARE, TRIES, TRIES_LIMIT


class PromptVariant(models.Model):
    """A text of the catalogue that images can be requested for. Change it through `catalogue.variants` only."""

    class Status(models.TextChoices):
        DRAFT = "draft"
        ACTIVE = "active"
        ARCHIVED = "archived"

    slug = models.SlugField(max_length=120, unique=True)
    text = models.CharField(max_length=300, help_text="1 to 12 words.")
    normalized_text = models.CharField(max_length=300, unique=True, editable=False)
    revision = models.PositiveIntegerField(
        default=1, editable=False, help_text="Number of the text: each change adds 1."
    )
    tags = ArrayField(models.CharField(max_length=60), default=list, blank=True)
    status = models.CharField(max_length=10, choices=Status, default=Status.ACTIVE)
    max_tries = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        validators=[MaxValueValidator(TRIES_LIMIT)],
        help_text=f"{TRIES}. Empty: as for the release.",
    )
    quality_floor = models.FloatField(
        null=True,
        blank=True,
        validators=SHARE,
        help_text=f"{FLOOR}. Empty: as for the release.",
    )
    notes = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    # By PostgreSQL's clock: compared with the start of runs.
    updated_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["slug"]
        indexes = [models.Index(fields=["status", "slug"], name="variant_status_slug")]

    def __str__(self) -> str:
        return self.slug


class Embedding(models.Model):
    """Text-encoder output for one revision of a variant under one encoder. A failed encoding keeps its reason."""

    variant = models.ForeignKey(PromptVariant, on_delete=models.CASCADE, related_name="embeddings")
    revision = models.PositiveIntegerField()
    text = models.CharField(max_length=300, help_text="Text that was encoded.")
    encoder_fingerprint = models.CharField(max_length=64)
    data = models.BinaryField(null=True, help_text="Raw little-endian values, row-major.")
    shape = ArrayField(models.PositiveIntegerField(), default=list, help_text="(tokens, width)")
    dtype = models.CharField(max_length=10, default="float16")
    sha256 = models.CharField(max_length=64, blank=True)
    error = models.CharField(
        max_length=500, blank=True, help_text="Why encoding failed. Such a row has no data."
    )
    encoded_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["variant", "revision", "encoder_fingerprint"],
                name="one_embedding_per_revision_and_encoder",
            ),
            models.CheckConstraint(
                condition=Q(data__isnull=False, error="") | (Q(data__isnull=True) & ~Q(error="")),
                name="embedding_has_data_or_error",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.variant_id} r{self.revision} {self.encoder_fingerprint[:12]}"

    def stored(self) -> StoredEmbedding:
        """Return the values in the engine's format."""
        tokens, width = self.shape
        return StoredEmbedding(
            bytes(self.data or b""),
            (tokens, width),
            self.dtype,
            self.sha256,
            self.encoder_fingerprint,
        )
