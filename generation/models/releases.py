"""Rows of releases, their coverage and their quality. One-row methods only."""

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

TRIES_LIMIT = 10  # pictures per image
TRIES = "0: pictures are delivered unjudged; 1: they are judged; N: a rejected one is replaced, up to N pictures"

SHARE = (MinValueValidator(0), MaxValueValidator(1))
FLOOR = "0 to 1: minimum share of right pictures; where the best student is below it, a better teacher serves"


class Release(models.Model):
    """Immutable weights and their manifest. `generation.releases.lifecycle` changes the status."""

    class Kind(models.TextChoices):
        TEACHER = "teacher"
        STUDENT = "student"

    class Status(models.TextChoices):
        CANDIDATE = "candidate"
        ACTIVE = "active"
        SPECIALIST = "specialist"  # a student in service beside the active one
        RETIRED = "retired"
        REJECTED = "rejected"

    SERVED = (Status.ACTIVE, Status.SPECIALIST)  # new jobs are routed to these and to canaries

    name = models.SlugField(max_length=100, unique=True)
    kind = models.CharField(max_length=10, choices=Kind)
    status = models.CharField(max_length=10, choices=Status, default=Status.CANDIDATE)
    path = models.CharField(
        max_length=500, help_text="Folder, absolute or relative to the project."
    )
    manifest = models.JSONField(
        help_text="The content of release.json without covered_variants, which are rows of Coverage."
    )
    manifest_sha256 = models.CharField(max_length=64)
    encoder_fingerprint = models.CharField(max_length=64, db_index=True)
    has_encoder = models.BooleanField(
        help_text="The folder holds the tokenizer and the text encoder."
    )
    covers_all = models.BooleanField(
        default=True, help_text="The manifest names no prompt variants: it covers every one."
    )
    size_bytes = models.BigIntegerField()
    max_tries = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        validators=[MaxValueValidator(TRIES_LIMIT)],
        help_text=f"{TRIES}. Empty: the setting MAX_TRIES.",
    )
    quality_floor = models.FloatField(
        null=True,
        blank=True,
        validators=SHARE,
        help_text=f"{FLOOR}. Empty: the setting QUALITY_FLOOR.",
    )
    canary_percent = models.PositiveSmallIntegerField(
        default=0,
        validators=[MaxValueValidator(99)],
        help_text="Share of the jobs for the active release of its kind that this one serves.",
    )
    canary_started_at = models.DateTimeField(null=True, blank=True)
    replaced = models.ForeignKey(
        "self",
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="+",
        help_text="The release that was active before this one: a rollback activates it.",
    )
    registered_at = models.DateTimeField(auto_now_add=True)
    prepared_at = models.DateTimeField(
        null=True,
        blank=True,
        help_text="When the workers started to load it, before its activation.",
    )
    activated_at = models.DateTimeField(null=True, blank=True)
    retired_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-registered_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["kind"], condition=Q(status="active"), name="one_active_release_per_kind"
            ),
            models.UniqueConstraint(
                fields=["kind"], condition=Q(canary_percent__gt=0), name="one_canary_per_kind"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def image_sizes(self) -> list[tuple[int, int]]:
        """Return the sizes as (width, height) in pixels; the first is the default."""
        return [(width, height) for width, height in self.manifest["image_sizes"]]

    @property
    def num_inference_steps(self) -> int:
        return int(self.manifest["num_inference_steps"])


class Coverage(models.Model):
    """A prompt variant that a release was made for.

    Keyed by slug instead of a foreign key: a manifest names variants that may be imported later or deleted.
    """

    release = models.ForeignKey(
        Release,
        on_delete=models.CASCADE,
        related_name="coverage",
        db_index=False,  # the constraint's index begins with it
    )
    slug = models.TextField()  # from the manifest, whose slugs have no limit
    normalized_text = models.TextField(
        blank=True, help_text="Text that the release was made for. Empty: any text."
    )

    class Meta:
        verbose_name_plural = "coverage"
        constraints = [
            models.UniqueConstraint(
                fields=["release", "slug"], name="one_coverage_per_release_and_slug"
            )
        ]

    def __str__(self) -> str:
        return f"{self.release_id} {self.slug}"


class Quality(models.Model):
    """Counts of judged pictures that a release made of a text. Written by `releases.quality` only.

    Keyed by the judged text, independent of the variant's slug and of whether it is in the catalogue yet.
    """

    release = models.ForeignKey(
        Release,
        on_delete=models.CASCADE,
        related_name="qualities",
        db_index=False,  # the constraint's index begins with it
    )
    normalized_text = models.TextField()
    evaluated = models.PositiveIntegerField(
        default=0, help_text="Number of pictures in its evaluation."
    )
    evaluated_right = models.PositiveIntegerField(default=0)
    judged = models.PositiveIntegerField(
        default=0, help_text="Number of judged pictures of recent jobs."
    )
    judged_right = models.PositiveIntegerField(default=0)

    class Meta:
        verbose_name_plural = "quality"
        constraints = [
            models.UniqueConstraint(
                fields=["release", "normalized_text"], name="one_quality_per_release_and_text"
            )
        ]

    def __str__(self) -> str:
        return f"{self.release_id} {self.normalized_text}"
