"""Variant images: one image of each covered prompt variant by the student that serves it, shown to everybody.

Idle workers make them with a fixed seed, independent of the stock (setting STOCK). An image is shown only while its
release serves the variant and the variant has the text that it was made for.
"""

from collections.abc import Collection, Iterable
from typing import Any
from uuid import UUID

import structlog
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet

from generation.errors import FileMissing
from generation.images import references, storage
from generation.images.storage import StoredFile
from generation.infra import queues, stalls
from generation.jobs import quality_control
from generation.models import Coverage, Embedding, Job, PromptVariant, Queue, Release, VariantImage
from generation.releases.default_release import Serving

log = structlog.get_logger(__name__)

SEED = 0
AT_ONCE = 16  # jobs per search
# Variants per query that determines which release serves them, which takes about a millisecond each.
CHECKED = 200
ACTIVE = PromptVariant.objects.filter(status=PromptVariant.Status.ACTIVE).order_by()


def wanted(releases: Collection[int]) -> list[Job]:
    """Return unsaved jobs whose images are missing, at most AT_ONCE. releases: pks of releases that may make them."""
    is_paused = Queue.objects.filter(name=queues.GENERATION, paused_at__isnull=False)
    if not releases or is_paused.exists():
        return []
    serving = Serving.now()
    found: list[Job] = []
    for variants in _to_check(serving):
        best = _lacking(serving, variants)
        for release in serving.students:
            if release.pk in releases:
                rows = Embedding.objects.filter(
                    variant__in=[pk for pk, student in best.items() if student == release.pk],
                    revision=F("variant__revision"),
                    encoder_fingerprint=release.encoder_fingerprint,
                    error="",
                )
                rows = rows.select_related("variant")
                found += [_job(release, one) for one in rows[: AT_ONCE - len(found)]]
        if found:
            break
    return found


def _to_check(serving: Serving) -> list[QuerySet[PromptVariant]]:
    """Return the variants that may lack an image, the likely ones first."""
    students = serving.students
    rows = ACTIVE
    if not any(release.covers_all for release in students):
        covered = Coverage.objects.filter(release__in=students)
        rows = rows.filter(slug__in=covered.values("slug"))
    images = VariantImage.objects.filter(
        variant=OuterRef("pk"), revision=OuterRef("revision"), release__in=students
    )
    without = rows.filter(~Exists(images))
    # Another student may have become the best for a variant that has an image.
    return [without, rows] if serving.specialists else [without]


def _lacking(serving: Serving, variants: QuerySet[PromptVariant]) -> dict[int, int]:
    """Return variant → best student, as pks, for those of CHECKED random variants that lack its image.

    Random, so that several workers rarely make the same image.
    """
    pks = list(variants.order_by("?").values_list("pk", flat=True)[:CHECKED])
    served = serving.annotated(ACTIVE.filter(pk__in=pks))
    served = served.filter(is_covered=True, served_by=Release.Kind.STUDENT)
    shown = Q(
        variant_image__release_id=F("best_student"),
        variant_image__revision=F("revision"),
    )
    return dict(served.filter(~shown).values_list("pk", "best_student"))


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
    """Replace the variant's image by the file of a job that `wanted` returned. Raises StorageFailed.

    While another process changes the variant the image is dropped: a worker waits for no import.
    """
    storage.sync([file.name])
    with transaction.atomic():
        references.hold([file.name])
        # Serialises two workers. NO KEY: jobs of the variant can be inserted.
        same = PromptVariant.objects.select_for_update(no_key=True, skip_locked=True).filter(
            pk=job.variant.pk, revision=job.embedding.revision
        )
        if not same or not storage.exists(file.name):
            return
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
    serving = Serving.now()
    images = list(VariantImage.objects.values_list("variant_id", "pk", "file"))
    rows: dict[UUID, str] = {}
    for start in range(0, len(images), CHECKED):
        some = images[start : start + CHECKED]
        variants = ACTIVE.filter(pk__in=[variant for variant, _, _ in some])
        current = set(shown(serving, serving.annotated(variants)).values())
        rows |= {pk: file for _, pk, file in some if pk not in current}
        stalls.progressed()
    if rows:
        VariantImage.objects.filter(pk__in=rows).delete()
        references.remove(set(rows.values()))
        log.info("variant_images_removed", images=len(rows))
    return len(rows)
