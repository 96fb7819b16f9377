"""Rows for tests. Every argument has a default, and rows made without arguments belong together.

They are one catalogue row, one release, one embedding of this row for this release, and one owner. Nothing here loads
tensors.
"""

import hashlib
import io
import itertools
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.db.models import Value
from django.db.models.functions import Concat
from django.utils import timezone
from PIL import Image as Picture

from generation.images import storage
from generation.models import (
    APIKey,
    Delivery,
    Embedding,
    Image,
    Job,
    PromptVariant,
    Quality,
    Release,
    VariantImage,
    WebhookEndpoint,
    Worker,
)
from generation.releases import coverage

ENCODER = "e" * 64  # fingerprint of the text encoder of all defaults here
DEFAULT_TEXT = "a red glass vase on a wooden table"
DEFAULT_SLUG = "red-glass-vase"
EVERY_SCOPE = tuple(APIKey.Scope.values)

_numbers = itertools.count(1)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def make_user(
    *,
    username: str = "owner",
    is_staff: bool = False,
    is_superuser: bool = False,
    password: str = "",
):
    """Return the user of that name; create it if there is none."""
    users = get_user_model().objects
    user = users.filter(username=username).first()
    if user is None:
        user = users.create_user(
            username,
            password=password or None,
            is_staff=is_staff or is_superuser,
            is_superuser=is_superuser,
        )
    return user


def make_key(
    *,
    owner=None,
    scopes=EVERY_SCOPE,
    name: str = "test",
    expires_at: datetime | None = None,
    **limits: int | None,
):
    """Return (key, plain text). The owner gets the permissions behind the scopes."""
    owner = owner or make_user()
    permit(owner, scopes)
    return APIKey.objects.issue(owner, name, list(scopes), expires_at=expires_at, limits=limits)


def permit(person, scopes: Iterable[str]) -> None:
    """Give a person the permissions behind these scopes."""
    needed = {name for scope in scopes for name in settings.SCOPE_PERMISSIONS.get(scope, ())}
    if needed and not person.is_superuser:
        full = Concat("content_type__app_label", Value("."), "codename")
        found = Permission.objects.annotate(full_name=full).filter(full_name__in=needed)
        person.user_permissions.add(*found)


def make_variant(
    *,
    slug: str | None = None,
    text: str | None = None,
    tags: tuple[str, ...] | list[str] = (),
    status: str = PromptVariant.Status.ACTIVE,
    notes: str = "",
    revision: int = 1,
    quality_floor: float | None = None,
) -> PromptVariant:
    """Create a catalogue row without `generation.catalogue.variants`: nothing is validated and nothing is encoded."""
    if slug is None:
        slug = f"variant-{next(_numbers)}" if text is None else "-".join(text.lower().split())[:120]
    if text is None:
        text = slug.replace("-", " ")
    return PromptVariant.objects.create(
        slug=slug,
        text=text,
        normalized_text=" ".join(text.casefold().split()),
        tags=list(tags),
        status=status,
        notes=notes,
        revision=revision,
        quality_floor=quality_floor,
    )


def make_release(
    *,
    name: str = "student-1",
    kind: str = Release.Kind.STUDENT,
    status: str | None = None,
    encoder_fingerprint: str = ENCODER,
    has_encoder: bool = False,
    image_sizes: tuple[tuple[int, int], ...] = ((64, 64),),
    steps: int = 4,
    path: str = "",
    parent: str | None = None,
    covered_variants: Sequence[str] = (),
) -> Release:
    """Return the release of that name. Else create it, without a folder; active if no other of its kind is."""
    known = Release.objects.filter(name=name).first()
    if known:
        return known
    manifest = {
        "format_version": 1,
        "name": name,
        "kind": kind,
        "parent": parent,
        "recipe": None,
        "code_revision": "test",
        "prediction_type": "epsilon",
        "noise_scheduler": "ddim",
        "timesteps": [999 - index * (1000 // steps) for index in range(steps)],
        "num_inference_steps": steps,
        "guidance_scale": 1.0,
        "encoder_fingerprint": encoder_fingerprint,
        "has_encoder": has_encoder,
        "max_tokens": 77,
        "embedding_shape": [4, 8],
        "weight_dtype": "float32",
        "quantization": None,
        "image_sizes": [list(size) for size in image_sizes],
        "files": [],
        "evaluation": None,
    }
    if status is None:
        taken = Release.objects.filter(kind=kind, status=Release.Status.ACTIVE).exists()
        status = Release.Status.CANDIDATE if taken else Release.Status.ACTIVE
    release = Release.objects.create(
        name=name,
        kind=kind,
        status=status,
        path=path or f"releases/{name}",
        manifest=manifest,
        manifest_sha256=_sha256(name),
        encoder_fingerprint=encoder_fingerprint,
        has_encoder=has_encoder,
        size_bytes=1000,
        activated_at=timezone.now() if status in ("active", "specialist") else None,
    )
    if covered_variants:
        cover(release, dict.fromkeys(covered_variants, ""))
    return release


def cover(release: Release, texts: Mapping[str, str]) -> None:
    """Make the release cover these slugs alone, each with its normalised text ("": any)."""
    release.covers_all = False
    release.save(update_fields=["covers_all"])
    release.coverage.all().delete()
    coverage.write(release, texts)


def make_quality(
    release: Release, text: str, right: int, evaluated: int = 4, **fields: int
) -> Quality:
    """Create the counts of the release's evaluation at a normalised text."""
    return Quality.objects.create(
        release=release,
        normalized_text=text,
        evaluated=evaluated,
        evaluated_right=right,
        **fields,
    )


def make_embedding(
    *,
    variant: PromptVariant | None = None,
    encoder_fingerprint: str = ENCODER,
    shape: tuple[int, int] = (4, 8),
    error: str = "",
) -> Embedding:
    """Return the embedding of the current revision. Else create it: zeros in float16, or failed with `error`."""
    variant = variant or _default_variant()
    row = {
        "variant": variant,
        "revision": variant.revision,
        "encoder_fingerprint": encoder_fingerprint,
    }
    known = Embedding.objects.filter(**row).first()
    if known:
        return known
    return Embedding.objects.create(
        **row,
        text=variant.text,
        data=None if error else bytes(2 * shape[0] * shape[1]),
        shape=[] if error else list(shape),
        sha256="" if error else _sha256(f"{variant.text}/{encoder_fingerprint}"),
        error=error,
    )


def _default_variant() -> PromptVariant:
    known = PromptVariant.objects.filter(slug=DEFAULT_SLUG).first()
    return known or make_variant(slug=DEFAULT_SLUG, text=DEFAULT_TEXT)


def make_job(**fields: Any) -> Job:
    """Create the job that `unsaved_job` returns."""
    job = unsaved_job(**fields)
    job.save(force_insert=True)
    return job


def unsaved_job(
    *,
    owner=None,
    variant: PromptVariant | None = None,
    embedding: Embedding | None = None,
    release: Release | None = None,
    status: str = Job.Status.QUEUED,
    key: str | None = None,
    **fields: Any,
) -> Job:
    """Return a job with the fields that its status needs. Its key is unique. Create the rows that it refers to."""
    now = timezone.now()
    release = release or make_release()
    variant = variant or (embedding.variant if embedding else _default_variant())
    embedding = embedding or make_embedding(
        variant=variant, encoder_fingerprint=release.encoder_fingerprint
    )
    width, height = release.image_sizes[0]
    facts: dict[str, Any] = {"created_at": now, "seed": 1, "width": width, "height": height}
    facts["num_inference_steps"] = release.num_inference_steps
    if status != Job.Status.QUEUED:
        facts |= {"started_at": now, "attempt": 1}
    if status == Job.Status.RUNNING:
        facts |= {"lease_expires_at": now + timedelta(minutes=1), "worker_name": "worker-1"}
    if status in Job.TERMINAL:
        facts["finished_at"] = now
    if status == Job.Status.FAILED:
        facts |= {"error_code": "internal_error", "error_detail": "It broke."}
    return Job(
        owner=owner or make_user(),
        variant=variant,
        embedding=embedding,
        release=release,
        status=status,
        key=key or _sha256(uuid.uuid4().hex),
        **(facts | fields),
    )


def make_image(
    *, job: Job | None = None, index: int = 0, color: tuple[int, int, int] = (200, 40, 40)
) -> Image:
    """Create an image of the job with a real file of one colour in the storage."""
    job = job or make_job(status=Job.Status.SUCCEEDED)
    picture = Picture.new("RGB", (job.width, job.height), color)
    master = storage.save(_encode(picture, "png"), "png")
    file = (
        master
        if job.output_format == "png"
        else storage.save(_encode(picture, job.output_format), job.output_format)
    )
    return Image.objects.create(
        job=job,
        index=index,
        seed=job.seed + index,
        key=_sha256(f"{job.key}/{index}"),
        master=master.name,
        file=file.name,
        format=job.output_format,
        sha256=file.sha256,
        size_bytes=file.size_bytes,
        width=job.width,
        height=job.height,
    )


def make_variant_image(
    *, variant: PromptVariant, release: Release | None = None, color: str = "teal"
) -> VariantImage:
    """Create the image of a variant that is shown to everybody, with a real file of one colour in the storage."""
    file = storage.save(_encode(Picture.new("RGB", (64, 64), color), "webp"), "webp")
    release = release or make_release()
    return VariantImage.objects.create(
        variant=variant, release=release, revision=variant.revision, file=file.name
    )


def _encode(picture: Picture.Image, output_format: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, output_format.upper())
    return buffer.getvalue()


def make_worker(
    *,
    name: str = "worker-1",
    queue: str = "generation",
    silent_seconds: float = 0,
    release: Release | None = None,
    loaded: Sequence[Release] = (),
    devices: Sequence[str] = (),
) -> Worker:
    """Create the row of a worker whose last heartbeat was `silent_seconds` ago."""
    return Worker.objects.create(
        name=name,
        queue=queue,
        hostname="host",
        pid=1,
        device="cpu",
        devices=list(devices),
        release=release,
        loaded=[one.pk for one in loaded],
        heartbeat_at=timezone.now() - timedelta(seconds=silent_seconds),
    )


def make_endpoint(
    *, owner=None, url: str = "https://example.org/hook", **fields: Any
) -> WebhookEndpoint:
    """Return the owner's endpoint at the URL; create it if there is none."""
    endpoint, _ = WebhookEndpoint.objects.get_or_create(
        owner=owner or make_user(), url=url, defaults=fields
    )
    return endpoint


def make_delivery(
    *,
    endpoint: WebhookEndpoint | None = None,
    job: Job | None = None,
    event: str = Delivery.Event.COMPLETED,
    **fields: Any,
) -> Delivery:
    """Create a due delivery about a succeeded job of the endpoint's owner."""
    endpoint = endpoint or make_endpoint()
    job = job or make_job(
        owner=endpoint.owner, status=Job.Status.SUCCEEDED, base_url="https://retort.example.org/"
    )
    return Delivery.objects.create(
        owner=endpoint.owner, endpoint=endpoint, job=job, event=event, **fields
    )
