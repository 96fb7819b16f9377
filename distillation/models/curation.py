"""Models of detector versions, image sources, examples and verdicts."""

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q
from django.utils import timezone

from generation.models import PromptVariant


class Detector(models.Model):
    """A version of the detector, immutable like a release. The life cycle is in `distillation.detectors.registry`."""

    class Status(models.TextChoices):
        CANDIDATE = "candidate"
        ACTIVE = "active"
        RETIRED = "retired"

    name = models.SlugField(max_length=100, unique=True)
    status = models.CharField(max_length=10, choices=Status, default=Status.CANDIDATE)
    path = models.CharField(
        max_length=500, help_text="Folder, absolute or relative to the project."
    )
    manifest = models.JSONField(help_text="The content of detector.json.")
    manifest_sha256 = models.CharField(max_length=64)
    registered_at = models.DateTimeField(auto_now_add=True)
    activated_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-registered_at", "-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["status"], condition=Q(status="active"), name="one_active_detector"
            )
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def bits(self) -> list[str]:
        return list(self.manifest["bits"])


class ImageSource(models.Model):
    """A location of images of prompt variants: a folder, or a URL that fsspec can list."""

    name = models.SlugField(max_length=100, unique=True)
    url = models.CharField(
        "URL", max_length=500, help_text="A folder, or a URL that fsspec knows: s3://…, https://…"
    )
    tags = ArrayField(
        models.CharField(max_length=60),
        default=list,
        blank=True,
        help_text="Labels of all its pictures, besides those of the variants: BIT must be visible, not-BIT must not.",
    )
    variants = models.ManyToManyField(
        PromptVariant,
        blank=True,
        related_name="image_sources",
        help_text="Prompt variants that its pictures illustrate.",
    )
    is_enabled = models.BooleanField(
        "enabled", default=True, help_text="If not, it is not read, and its pictures are not used."
    )
    created_at = models.DateTimeField(default=timezone.now)
    asked_at = models.DateTimeField(
        null=True, blank=True, help_text="When reading was requested. Empty: no request is pending."
    )
    lease_expires_at = models.DateTimeField(
        null=True, blank=True, help_text="Set while a worker reads the source."
    )
    ingested_at = models.DateTimeField(null=True, blank=True)
    error = models.CharField(
        max_length=500, blank=True, help_text="Error of the last attempt to read it."
    )

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Example(models.Model):
    """An image of a source, cropped for training; or a refused file, with the reason."""

    class Override(models.TextChoices):
        NONE = "", "none (the detector decides)"
        ACCEPTED = "accepted", "accepted by a person"
        REJECTED = "rejected", "rejected by a person"

    source = models.ForeignKey(ImageSource, on_delete=models.CASCADE, related_name="examples")
    location = models.CharField(max_length=1000, help_text="Path of the file within the source.")
    stamps = models.JSONField(
        default=dict,
        help_text="Paths of these bytes in the source, each with its stamp (etag, or size and time). If the stamp "
        "is unchanged, the file is not read again.",
    )
    sha256 = models.CharField(
        max_length=64,
        blank=True,
        help_text="SHA-256 of the original file. Empty: the file was too large.",
    )
    perceptual_hash = models.CharField(max_length=64, blank=True)
    file = models.CharField(
        max_length=200, blank=True, help_text="Storage name of the crop (PNG); none if refused."
    )
    side = models.PositiveIntegerField(
        default=0,
        help_text="Side of the crop in pixels: the teacher's image size when the file was read.",
    )
    width = models.PositiveIntegerField(
        default=0, help_text="Width of the original file in pixels."
    )
    height = models.PositiveIntegerField(default=0)
    refusal = models.CharField(
        max_length=40, blank=True, help_text="Why the file is not an example: broken, duplicate …"
    )
    refusal_detail = models.CharField(max_length=500, blank=True)
    override = models.CharField(max_length=10, choices=Override, default=Override.NONE, blank=True)
    overridden_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    overridden_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-created_at", "-pk"]
        constraints = [
            # Equal bytes are one example per source, at whatever locations.
            models.UniqueConstraint(
                fields=["source", "sha256"],
                condition=~Q(sha256=""),
                name="one_example_per_content",
            )
        ]
        # Read before a stored file is removed, to see whether a row refers to it.
        indexes = [models.Index(fields=["file"], name="example_file")]

    def __str__(self) -> str:
        return self.location


class Verdict(models.Model):
    """Verdict of a detector version on an example."""

    example = models.ForeignKey(Example, on_delete=models.CASCADE, related_name="verdicts")
    detector = models.ForeignKey(Detector, on_delete=models.PROTECT, related_name="verdicts")
    is_accepted = models.BooleanField()
    failing = ArrayField(
        models.CharField(max_length=60), default=list, blank=True, help_text="Bits that failed."
    )
    present = ArrayField(
        models.CharField(max_length=60),
        default=list,
        blank=True,
        help_text="Bits that must be visible.",
    )
    absent = ArrayField(
        models.CharField(max_length=60),
        default=list,
        blank=True,
        help_text="Bits that must not be visible.",
    )
    score = models.FloatField(
        help_text="Lowest probability, over the stated bits, that the bit is as stated."
    )
    probabilities = models.JSONField(help_text="Probability of each bit, by name.")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-created_at", "-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["example", "detector"], name="one_verdict_per_example_and_detector"
            )
        ]

    def __str__(self) -> str:
        return f"{self.example_id}: {'accepted' if self.is_accepted else ', '.join(self.failing)}"
