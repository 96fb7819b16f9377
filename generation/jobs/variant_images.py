"""Variant images: one image of each covered prompt variant by the student that serves it, shown to everybody.

Idle workers make them with a fixed seed, independent of the stock (setting STOCK). An image is shown only while its
release serves the variant and the variant has the text that it was made for.
"""

from collections.abc import Collection, Iterable
from typing import Any
from uuid import UUID

import structlog
from django.db import transaction
from django.db.models import F, Q, QuerySet

from generation.errors import FileMissing
from generation.images import references, storage
from generation.images.storage import StoredFile
from generation.infra import queues
from generation.jobs import quality_control
from generation.models import Embedding, Job, PromptVariant, Queue, Release, VariantImage
from generation.releases.default_release import Serving

log = structlog.get_logger(__name__)

SEED = 0
AT_ONCE = 16  # jobs per query; random ones, so that several workers rarely make the same image

_SHOWN = Q(
    variant_image__release_id=F("best_student"),
    variant_image__revision=F("revision"),
)


def _served(serving: Serving) -> QuerySet[Any, Any]:
    """Return the active variants that a student covers and serves, annotated with its pk as best_student."""
    active = PromptVariant.objects.filter(status=PromptVariant.Status.ACTIVE)
    rows = serving.annotated(active).order_by()
    return rows.filter(is_covered=True, served_by=Release.Kind.STUDENT)


def wanted(releases: Collection[int]) -> list[Job]:
    """Return unsaved jobs whose images are missing, at most AT_ONCE. releases: pks of releases that may make them."""
    is_paused = Queue.objects.filter(name=queues.GENERATION, paused_at__isnull=False)
    if not releases or is_paused.exists():
        return []
    serving = Serving.now()
    found: list[Job] = []
    for release in serving.students:
        if release.pk in releases:
            missing = _served(serving).filter(~_SHOWN, best_student=release.pk)
            rows = Embedding.objects.filter(
                variant__in=missing.values("pk"),
                revision=F("variant__revision"),
                encoder_fingerprint=release.encoder_fingerprint,
                error="",
            )
            rows = rows.select_related("variant").order_by("?")
            found += [_job(release, one) for one in rows[: AT_ONCE - len(found)]]
    return found


def _job(release: Release, embedding: Embedding) -> Job:
    width, height = release.image_sizes[0]
    return Job(
        variant=embedding.variant,
        release=release,
        embedding=embedding,
        seed=SEED,
        width=width,
        height=height,
        num_inference_steps=release.num_inference_steps,
        max_tries=quality_control.tries(embedding.variant, release),
    )


def put(job: Job, file: StoredFile) -> None:
    """Replace the variant's image by the file of a job that `wanted` returned. Raises StorageFailed."""
    storage.sync([file.name])
    with transaction.atomic():
        references.hold([file.name])
        # Serialises two workers. NO KEY: jobs of the variant can be inserted.
        variants = PromptVariant.objects.select_for_update(no_key=True)
        if not variants.filter(pk=job.variant.pk) or not storage.exists(file.name):
            return  # just deleted
        former = VariantImage.objects.filter(variant=job.variant)
        replaced = list(former.values_list("file", flat=True))
        former.delete()
        VariantImage.objects.create(
            variant=job.variant,
            release=job.release,
            revision=job.embedding.revision,
            file=file.name,
        )
    references.remove(replaced)


def shown(serving: Serving, variants: Iterable[Any]) -> dict[int, UUID]:
    """Return the images of these annotated variants by the variant's pk."""
    rows = {row.pk: (row.revision, serving.release(row)) for row in variants}
    return {
        image.variant_id: image.pk
        for image in VariantImage.objects.filter(variant__in=rows)
        for revision, release in [rows[image.variant_id]]
        if image.revision == revision and release and image.release_id == release.pk
    }


def content(image: VariantImage) -> bytes:
    """Return the file. Raises StorageFailed; FileMissing if it is lost, and then a worker makes the image again."""
    try:
        return storage.read(image.file)
    except FileMissing:
        image.delete()
        raise


def remove_outdated() -> int:
    """Remove images that are not shown any more, with their files. Return how many."""
    current = _served(Serving.now()).filter(_SHOWN)
    outdated = VariantImage.objects.exclude(variant__in=current.values("pk"))
    rows = dict(outdated.values_list("pk", "file"))
    if rows:
        VariantImage.objects.filter(pk__in=rows).delete()
        references.remove(set(rows.values()))
        log.info("variant_images_removed", images=len(rows))
    return len(rows)
