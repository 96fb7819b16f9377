"""Rows of jobs, their attempts and images. One-row methods only."""

import uuid

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from generation.models.access import APIKey
from generation.models.catalogue import Embedding, PromptVariant
from generation.models.releases import TRIES, Release
from generation.models.webhooks import WebhookEndpoint

ERASED = "erased-"  # prefix of the digest that replaces a client's id
# Purged jobs that still contain the client's words.
NOT_ERASED = Q(purged_at__isnull=False) & (
    ~Q(asked_text="")
    | ~Q(base_url="")
    | Q(webhook__isnull=False)
    | (~Q(external_id="") & ~Q(external_id__startswith=ERASED))
)


class Job(models.Model):
    """A request for images. Status, lease and attempt change in `generation.jobs.lifecycle` only."""

    class Status(models.TextChoices):
        QUEUED = "queued"
        RUNNING = "running"
        SUCCEEDED = "succeeded"
        FAILED = "failed"
        CANCELED = "canceled"

    class Cache(models.TextChoices):
        MISS = "miss"
        HIT = "hit", "hit (answered from stored images)"
        SHARED = "shared", "shared (answered by an identical job)"

    class Format(models.TextChoices):
        WEBP = "webp", "WebP"
        PNG = "png", "PNG"
        JPEG = "jpeg", "JPEG"

    class Via(models.TextChoices):
        """Interface through which the job was created."""

        JOBS = "jobs", "jobs (/v1/jobs)"
        OPENAI = "openai", "OpenAI (/v1/images/generations)"
        REPLICATE = "replicate", "Replicate (/v1/predictions)"
        PAGE = "page", "page (/)"

    TERMINAL = (Status.SUCCEEDED, Status.FAILED, Status.CANCELED)

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    # Without an index of its own, as other foreign keys below: a longer index begins with it, and each index costs time
    # per job, in writing and in planning the claim.
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="jobs", db_index=False
    )
    api_key = models.ForeignKey(
        APIKey,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="jobs",
        db_index=False,  # keys are never deleted
    )
    via = models.CharField(max_length=9, choices=Via, default=Via.JOBS)
    external_id = models.CharField(
        max_length=64, blank=True, help_text="Chosen by the client; unique to its owner."
    )
    external_fingerprint = models.CharField(
        max_length=64, blank=True, help_text="SHA-256 of the request that chose the external id."
    )
    variant = models.ForeignKey(
        PromptVariant, on_delete=models.PROTECT, related_name="jobs", db_index=False
    )
    asked_text = models.CharField(
        max_length=300,
        blank=True,
        help_text="The requested text, if it was matched to the variant and is not its own.",
    )
    match_score = models.FloatField(
        null=True,
        blank=True,
        help_text="Similarity of the variant to the requested text; 1: the same.",
    )
    embedding = models.ForeignKey(Embedding, on_delete=models.PROTECT, related_name="jobs")
    release = models.ForeignKey(Release, on_delete=models.PROTECT, related_name="jobs")
    is_release_named = models.BooleanField(
        default=False, db_default=False, help_text="The request gave the name of the release."
    )
    n = models.PositiveSmallIntegerField(default=1, validators=[MinValueValidator(1)])
    seed = models.BigIntegerField(help_text="Seed of the first image; the next one has seed + 1.")
    width = models.PositiveIntegerField()
    height = models.PositiveIntegerField()
    num_inference_steps = models.PositiveIntegerField()
    output_format = models.CharField(max_length=5, choices=Format, default=Format.WEBP)
    priority = models.SmallIntegerField(
        default=0, help_text="Higher runs first among the owner's own jobs."
    )
    weight = models.PositiveSmallIntegerField(
        default=1,
        help_text="Weight of the key: images of the owner in each turn.",
    )
    key = models.CharField(max_length=64, help_text="Hash of everything that decides the images.")
    has_metadata = models.BooleanField(
        default=False, help_text="The files contain metadata on how they were made."
    )
    cancel_at = models.DateTimeField(
        null=True, blank=True, help_text="When the job is canceled if it has not ended."
    )
    webhook = models.ForeignKey(
        WebhookEndpoint,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="jobs",
        db_index=False,
    )
    webhook_events = ArrayField(models.CharField(max_length=10), default=list, blank=True)
    base_url = models.CharField(
        max_length=200,
        blank=True,
        help_text="URL under which the client reached this server, for links in webhooks.",
    )
    max_tries = models.PositiveSmallIntegerField(
        default=0, help_text=f"{TRIES}. At most 1 for a requested seed."
    )

    status = models.CharField(max_length=10, choices=Status, default=Status.QUEUED)
    cache = models.CharField(max_length=6, choices=Cache, default=Cache.MISS)
    attempt = models.PositiveIntegerField(default=0, help_text="Also the fencing token.")
    failures = models.PositiveIntegerField(
        default=0, help_text="Attempts that ended in an error or a lost worker."
    )
    lease_expires_at = models.DateTimeField(null=True, blank=True)
    not_before = models.DateTimeField(
        null=True,
        blank=True,
        help_text="Earliest time of the next attempt; set when an attempt ended without images.",
    )
    worker_name = models.CharField(max_length=120, blank=True)
    error_code = models.CharField(max_length=40, blank=True)
    error_detail = models.TextField(blank=True)
    device_seconds = models.FloatField(
        default=0, help_text="This job's share of the device's time."
    )
    encode_seconds = models.FloatField(
        default=0, help_text="This job's share of the time for encoding files."
    )
    created_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    purged_at = models.DateTimeField(
        null=True, blank=True, help_text="When its images were removed."
    )

    class Meta:
        ordering = ["-created_at", "-id"]
        indexes = [
            models.Index(
                fields=["owner", "-priority", "created_at"],
                condition=Q(status="queued"),
                name="job_claimable",
            ),
            models.Index(fields=["key"], name="job_key"),
            models.Index(
                fields=["lease_expires_at"], condition=Q(status="running"), name="job_lease"
            ),
            models.Index(fields=["owner", "-created_at", "-id"], name="job_owner_newest"),
            # Lists exclude purged jobs, of which there may be many.
            models.Index(
                fields=["owner", "status", "-created_at", "-id"],
                condition=Q(purged_at__isnull=True),
                name="job_owner_status",
            ),
            models.Index(
                fields=["owner", "-created_at", "-id"],
                condition=Q(purged_at__isnull=True),
                name="job_owner_kept",
            ),
            # Jobs of an earlier release are older than all others of the owner.
            models.Index(
                fields=["owner", "release", "-created_at", "-id"],
                condition=Q(purged_at__isnull=True),
                name="job_owner_release",
            ),
            models.Index(fields=["-created_at", "-id"], name="job_newest"),
            models.Index(fields=["variant", "-created_at"], name="job_variant_newest"),
            models.Index(
                fields=["api_key"],
                # The second condition is implied; it keeps the planner from reading this index for other queries.
                condition=Q(status="queued", api_key__isnull=False),
                name="job_queued_of_key",
            ),
            models.Index(
                fields=["cancel_at"],
                condition=Q(cancel_at__isnull=False, status__in=("queued", "running")),
                name="job_deadline",
            ),
            models.Index(
                fields=["finished_at"],
                condition=Q(finished_at__isnull=False, purged_at__isnull=True),
                name="job_kept",
            ),
            models.Index(
                fields=["webhook"], condition=Q(webhook__isnull=False), name="job_of_webhook"
            ),
            models.Index(fields=["purged_at"], condition=NOT_ERASED, name="job_not_erased"),
            models.Index(
                fields=["owner", "-started_at"],
                condition=Q(started_at__isnull=False),
                name="job_owner_served",
            ),
        ]
        constraints = [
            # Single flight: of identical jobs at most one is being computed.
            models.UniqueConstraint(
                fields=["key"], condition=Q(status="running"), name="one_running_job_per_key"
            ),
            models.UniqueConstraint(
                fields=["owner", "external_id"],
                condition=~Q(external_id=""),
                name="one_job_per_external_id",
            ),
            models.CheckConstraint(
                condition=Q(status="running", lease_expires_at__isnull=False)
                | (~Q(status="running") & Q(lease_expires_at__isnull=True)),
                name="running_jobs_have_a_lease",
            ),
            models.CheckConstraint(
                condition=Q(status__in=("queued", "running"), finished_at__isnull=True)
                | Q(status__in=("succeeded", "failed", "canceled"), finished_at__isnull=False),
                name="ended_jobs_have_a_time",
            ),
        ]

    def __str__(self) -> str:
        return str(self.id)

    @property
    def is_terminal(self) -> bool:
        return self.status in self.TERMINAL


class Attempt(models.Model):
    """One execution of a job by a worker, and its outcome."""

    class Outcome(models.TextChoices):
        RUNNING = "running"
        SUCCEEDED = "succeeded"
        FAILED = "failed"
        LOST = "lost", "lost (the lease ran out)"
        CANCELED = "canceled"
        RELEASED = "released", "released (given back; not a failure of the job)"

    class ErrorClass(models.TextChoices):
        JOB = "job", "job (counts as a failure)"
        INFRASTRUCTURE = "infrastructure", "infrastructure (storage, database, device, release)"

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="attempts", db_index=False)
    number = models.PositiveIntegerField()
    worker_name = models.CharField(max_length=120)
    batch_size = models.PositiveIntegerField(help_text="Images in the batch that the job ran in.")
    outcome = models.CharField(max_length=10, choices=Outcome, default=Outcome.RUNNING)
    error_code = models.CharField(max_length=40, blank=True)
    error_detail = models.TextField(blank=True)
    error_class = models.CharField(
        max_length=14, choices=ErrorClass, blank=True, default="", db_default=""
    )
    device_seconds = models.FloatField(default=0)
    started_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["number"]
        constraints = [
            models.UniqueConstraint(fields=["job", "number"], name="one_row_per_attempt")
        ]

    def __str__(self) -> str:
        return f"{self.job_id} #{self.number}"


class Image(models.Model):
    """One output of a job. Jobs with the same key share the file."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="images", db_index=False)
    index = models.PositiveSmallIntegerField()
    seed = models.BigIntegerField()
    key = models.CharField(
        max_length=64, db_index=True, help_text="Hash of everything that decides the pixels."
    )
    master = models.CharField(max_length=200, help_text="Storage name of the lossless file (PNG).")
    file = models.CharField(
        max_length=200, help_text="Storage name of the file in the job's output format."
    )
    format = models.CharField(max_length=5, choices=Job.Format)
    sha256 = models.CharField(max_length=64, help_text="SHA-256 of the file.")
    size_bytes = models.PositiveIntegerField()
    width = models.PositiveIntegerField()
    height = models.PositiveIntegerField()
    has_metadata = models.BooleanField(
        default=False, help_text="The file contains metadata on how it was made."
    )
    tries = models.PositiveSmallIntegerField(
        default=1, help_text="Number of pictures made for this image, of which this is the best."
    )
    is_accepted = models.BooleanField(
        null=True, help_text="Verdict of the detector; empty: not judged."
    )
    failing = ArrayField(
        models.CharField(max_length=60), default=list, blank=True, help_text="Bits that failed."
    )
    detector = models.CharField(
        max_length=100, blank=True, help_text="Version of the detector that judged."
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["job", "index"]
        constraints = [models.UniqueConstraint(fields=["job", "index"], name="one_image_per_index")]
        indexes = [
            # For the check that no row refers to a file, before it is removed.
            models.Index(fields=["file"], name="image_file"),
            models.Index(fields=["master"], name="image_master"),
            models.Index(
                fields=["created_at"],
                condition=Q(is_accepted__isnull=False),
                name="image_judged",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.job_id}/{self.index}"


class PurgedImage(models.Model):
    """Id of a removed image, to distinguish it from one that never existed."""

    id = models.UUIDField(primary_key=True, editable=False, help_text="Id of the image.")
    job = models.ForeignKey(
        Job,
        on_delete=models.CASCADE,
        related_name="purged_images",
        db_index=False,  # jobs are never deleted
    )

    def __str__(self) -> str:
        return str(self.id)


class IdempotencyKey(models.Model):
    """Idempotency key of a request and the job that it created. Used by `jobs.idempotency`."""

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.CASCADE,
        related_name="idempotency_keys",
        db_index=False,
    )
    route = models.CharField(max_length=40)
    key = models.CharField(max_length=255)
    fingerprint = models.CharField(max_length=64, help_text="SHA-256 of the request's body.")
    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="idempotency_keys")
    created_at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["owner", "route", "key"], name="one_job_per_idempotency_key"
            )
        ]

    def __str__(self) -> str:
        return f"{self.route} {self.key}"
