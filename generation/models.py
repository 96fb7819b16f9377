"""The rows: catalogue, embeddings, releases, jobs, attempts, images, workers, API keys. One-row methods only."""

import hashlib
import hmac
import secrets
import uuid
from datetime import timedelta

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from generation.engine.request import StoredEmbedding

MOST_TRIES = 10  # pictures that are made for one image, at most
TRIES = "0: nobody looks at a picture before it is delivered; 1: it is judged; more: another one is made, up to so many"


class PromptVariant(models.Model):
    """A catalogue row: one wording that pictures may be asked for. Change it through `generation.catalogue` only."""

    class Status(models.TextChoices):
        DRAFT = "draft"
        ACTIVE = "active"
        ARCHIVED = "archived"

    slug = models.SlugField(max_length=120, unique=True)
    text = models.CharField(max_length=300, help_text="1 to 12 words.")
    normalized_text = models.CharField(max_length=300, unique=True, editable=False)
    revision = models.PositiveIntegerField(
        default=1, editable=False, help_text="Counts changes of the text."
    )
    tags = ArrayField(models.CharField(max_length=60), default=list, blank=True)
    status = models.CharField(max_length=10, choices=Status, default=Status.ACTIVE)
    max_tries = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        validators=[MaxValueValidator(MOST_TRIES)],
        help_text=f"{TRIES}. Empty: as the release says.",
    )
    notes = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["slug"]
        indexes = [models.Index(fields=["status", "slug"], name="variant_status_slug")]

    def __str__(self) -> str:
        return self.slug


class Release(models.Model):
    """Immutable weights and their manifest. Its life is in `generation.releases`."""

    class Kind(models.TextChoices):
        TEACHER = "teacher"
        STUDENT = "student"

    class Status(models.TextChoices):
        CANDIDATE = "candidate"
        ACTIVE = "active"
        RETIRED = "retired"
        REJECTED = "rejected"

    name = models.SlugField(max_length=100, unique=True)
    kind = models.CharField(max_length=10, choices=Kind)
    status = models.CharField(max_length=10, choices=Status, default=Status.CANDIDATE)
    path = models.CharField(
        max_length=500, help_text="Folder, absolute or relative to the project."
    )
    manifest = models.JSONField(help_text="The content of release.json.")
    manifest_sha256 = models.CharField(max_length=64)
    encoder_fingerprint = models.CharField(max_length=64, db_index=True)
    has_encoder = models.BooleanField(
        help_text="The folder holds the tokenizer and the text encoder."
    )
    size_bytes = models.BigIntegerField()
    max_tries = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        validators=[MaxValueValidator(MOST_TRIES)],
        help_text=f"{TRIES}. Empty: as the setting MAX_TRIES says.",
    )
    canary_percent = models.PositiveSmallIntegerField(
        default=0,
        validators=[MaxValueValidator(99)],
        help_text="Of the jobs for the active release of its kind, this share is served by it.",
    )
    canary_started_at = models.DateTimeField(null=True, blank=True)
    replaced = models.ForeignKey(
        "self",
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="+",
        help_text="The release that was active before this one: where a rollback leads.",
    )
    registered_at = models.DateTimeField(auto_now_add=True)
    prepared_at = models.DateTimeField(
        null=True, blank=True, help_text="Since when the workers hold it ready, to be served next."
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
        """(width, height) in pixels; the first is the default."""
        return [(width, height) for width, height in self.manifest["image_sizes"]]

    @property
    def num_inference_steps(self) -> int:
        return int(self.manifest["num_inference_steps"])


class Embedding(models.Model):
    """Text-encoder output for one revision of a variant under one encoder. A failed encoding keeps its reason."""

    variant = models.ForeignKey(PromptVariant, on_delete=models.CASCADE, related_name="embeddings")
    revision = models.PositiveIntegerField()
    text = models.CharField(max_length=300, help_text="What was encoded.")
    encoder_fingerprint = models.CharField(max_length=64)
    data = models.BinaryField(null=True, help_text="Raw little-endian values, row-major.")
    shape = ArrayField(models.PositiveIntegerField(), default=list, help_text="(tokens, width)")
    dtype = models.CharField(max_length=10, default="float16")
    sha256 = models.CharField(max_length=64, blank=True)
    error = models.CharField(
        max_length=500, blank=True, help_text="Why encoding failed; then there is no data."
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
        """As the engine takes it."""
        tokens, width = self.shape
        return StoredEmbedding(
            bytes(self.data or b""),
            (tokens, width),
            self.dtype,
            self.sha256,
            self.encoder_fingerprint,
        )


class Job(models.Model):
    """One request for images. Status, lease and attempt change in `generation.jobs` only."""

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

    TERMINAL = (Status.SUCCEEDED, Status.FAILED, Status.CANCELED)
    has_twin = False  # said by a claim: an identical job has succeeded

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="jobs"
    )
    variant = models.ForeignKey(PromptVariant, on_delete=models.PROTECT, related_name="jobs")
    embedding = models.ForeignKey(Embedding, on_delete=models.PROTECT, related_name="jobs")
    release = models.ForeignKey(Release, on_delete=models.PROTECT, related_name="jobs")
    n = models.PositiveSmallIntegerField(default=1, validators=[MinValueValidator(1)])
    seed = models.BigIntegerField(help_text="Of the first image; the next has seed + 1.")
    width = models.PositiveIntegerField()
    height = models.PositiveIntegerField()
    num_inference_steps = models.PositiveIntegerField()
    output_format = models.CharField(max_length=5, choices=Format, default=Format.WEBP)
    priority = models.SmallIntegerField(
        default=0, help_text="Higher runs first among the owner's own jobs."
    )
    key = models.CharField(max_length=64, help_text="Hash of everything that decides the images.")
    max_tries = models.PositiveSmallIntegerField(
        default=0, help_text=f"{TRIES}. Never more than 1 for a seed that was asked for."
    )

    status = models.CharField(max_length=10, choices=Status, default=Status.QUEUED)
    cache = models.CharField(max_length=6, choices=Cache, default=Cache.MISS)
    attempt = models.PositiveIntegerField(default=0, help_text="Also the fencing token.")
    failures = models.PositiveIntegerField(
        default=0, help_text="Attempts that ended in an error or a lost worker."
    )
    lease_expires_at = models.DateTimeField(null=True, blank=True)
    worker_name = models.CharField(max_length=120, blank=True)
    error_code = models.CharField(max_length=40, blank=True)
    error_detail = models.TextField(blank=True)
    device_seconds = models.FloatField(
        default=0, help_text="This job's share of the device's time."
    )
    created_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

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
            models.Index(fields=["-created_at", "-id"], name="job_newest"),
            models.Index(fields=["variant", "-created_at"], name="job_variant_newest"),
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
    """One execution of a job by a worker, with what came of it."""

    class Outcome(models.TextChoices):
        RUNNING = "running"
        SUCCEEDED = "succeeded"
        FAILED = "failed"
        LOST = "lost", "lost (the lease ran out)"
        CANCELED = "canceled"
        RELEASED = "released", "released (the worker stopped in good order)"

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="attempts")
    number = models.PositiveIntegerField()
    worker_name = models.CharField(max_length=120)
    batch_size = models.PositiveIntegerField(help_text="Images in the batch that the job ran in.")
    outcome = models.CharField(max_length=10, choices=Outcome, default=Outcome.RUNNING)
    error_code = models.CharField(max_length=40, blank=True)
    error_detail = models.TextField(blank=True)
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
    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="images")
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
    sha256 = models.CharField(max_length=64, help_text="Of the file.")
    size_bytes = models.PositiveIntegerField()
    width = models.PositiveIntegerField()
    height = models.PositiveIntegerField()
    tries = models.PositiveSmallIntegerField(
        default=1, help_text="Pictures that were made for this image; it is the best of them."
    )
    is_accepted = models.BooleanField(
        null=True, help_text="By the detector; empty: nobody looked at it."
    )
    failing = ArrayField(
        models.CharField(max_length=60), default=list, blank=True, help_text="The bits at fault."
    )
    detector = models.CharField(max_length=100, blank=True, help_text="The version that judged.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["job", "index"]
        constraints = [models.UniqueConstraint(fields=["job", "index"], name="one_image_per_index")]

    def __str__(self) -> str:
        return f"{self.job_id}/{self.index}"


class Worker(models.Model):
    """A process that consumes one queue. Its heartbeat is written by a thread, so a busy worker is not a dead one."""

    name = models.CharField(max_length=120, unique=True)
    queue = models.CharField(max_length=20)
    hostname = models.CharField(max_length=120)
    pid = models.PositiveIntegerField()
    device = models.CharField(max_length=60, blank=True)
    release = models.ForeignKey(
        Release, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    loaded = ArrayField(
        models.BigIntegerField(), default=list, help_text="Ids of the releases that are ready."
    )
    started_at = models.DateTimeField(default=timezone.now)
    heartbeat_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class APIKeyManager(models.Manager["APIKey"]):
    def issue(
        self, owner, name: str, scopes: list[str], *, secret: str = "", expires_at=None
    ) -> tuple["APIKey", str]:
        """A new key and its plain text, which is stored nowhere: `rt_<prefix>_<secret>`."""
        plain = secret or f"rt_{secrets.token_hex(4)}_{secrets.token_urlsafe(32)}"
        key = self.create(
            owner=owner,
            name=name,
            scopes=scopes,
            expires_at=expires_at,
            prefix=APIKey.prefix_of(plain),
            sha256=hashlib.sha256(plain.encode()).hexdigest(),
        )
        return key, plain


class APIKey(models.Model):
    """A client's key: prefix to find it, SHA-256 of 256 random bits to check it. Jobs belong to its owner."""

    class Scope(models.TextChoices):
        JOBS_WRITE = "jobs:write", "create and cancel jobs"
        JOBS_READ = "jobs:read", "read jobs and images"
        VARIANTS_READ = "variants:read", "read the catalogue"
        RELEASES_READ = "releases:read", "read releases and how they are made"
        RELEASES_WRITE = "releases:write", "make releases"

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="api_keys"
    )
    name = models.CharField(max_length=100)
    prefix = models.CharField(max_length=20, unique=True, editable=False)
    sha256 = models.CharField(max_length=64, editable=False)
    scopes = ArrayField(models.CharField(max_length=20, choices=Scope))
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

    def matches(self, plain: str) -> bool:
        """Whether `plain` is this key and the key is still good."""
        good = hmac.compare_digest(self.sha256, hashlib.sha256(plain.encode()).hexdigest())
        now = timezone.now()
        return (
            good and self.revoked_at is None and (self.expires_at is None or self.expires_at > now)
        )

    def touch(self) -> None:
        """Note the use, at most once a minute: it is not worth a write per request."""
        now = timezone.now()
        if self.last_used_at and self.last_used_at > now - timedelta(minutes=1):
            return
        stale = Q(last_used_at__isnull=True) | Q(last_used_at__lt=now - timedelta(minutes=1))
        APIKey.objects.filter(stale, pk=self.pk).update(last_used_at=now)
