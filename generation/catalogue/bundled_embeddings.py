"""Embeddings contained in releases, stored for the prompt variants with the same texts.

With them a machine that serves only a student needs no text encoder, and the first start does not wait for one.
"""

import structlog
from django.db.models import Exists, OuterRef, Q

from generation.catalogue import embeddings
from generation.catalogue import variants as catalogue
from generation.engine.errors import ReleaseInvalid
from generation.engine.prompts import prompt_embeds
from generation.engine.request import StoredEmbedding
from generation.errors import ReleaseRefused
from generation.infra import stalls
from generation.models import PromptVariant, Release
from generation.releases import lifecycle as releases

log = structlog.get_logger(__name__)

BATCH = 200  # rows of one transaction


def store_missing() -> int:
    """Call `store` for every candidate and release in service and log errors. Return how many were stored."""
    stored = 0
    needed = Release.objects.filter(Q(status=Release.Status.CANDIDATE) | releases.IN_SERVICE)
    for release in needed.order_by("registered_at", "pk"):
        try:
            stored += store(release)
        except (ReleaseInvalid, ReleaseRefused) as error:
            log.error("embeddings_unreadable", release=release.name, error=error.detail)
    return stored


def store(release: Release) -> int:
    """Store the release's embeddings for active variants with the same slug and text that lack one.

    Texts are compared in normalised form. Return how many were stored. Raises ReleaseInvalid and ReleaseRefused if the
    folder is damaged.
    """
    brought = release.coverage.filter(
        slug=OuterRef("slug"), normalized_text=OuterRef("normalized_text")
    )
    missing = catalogue.missing(release.encoder_fingerprint).filter(Exists(brought))
    waiting = {variant.slug: variant for variant in missing}
    if not waiting:
        return 0
    stored = 0
    batch: list[tuple[PromptVariant, StoredEmbedding]] = []
    manifest = releases.read_manifest(release)
    for slug, _, embedding in prompt_embeds.read(releases.folder(release), manifest):
        if slug in waiting:
            batch.append((waiting[slug], embedding))
        if len(batch) == BATCH:
            stored += _write(release, batch)
            batch.clear()
    stored += _write(release, batch)
    if stored:
        log.info("embeddings_taken_from_release", release=release.name, stored=stored)
    return stored


def _write(release: Release, batch: list[tuple[PromptVariant, StoredEmbedding]]) -> int:
    variants = [variant for variant, _ in batch]
    embeddings.store(variants, release.encoder_fingerprint, [embedding for _, embedding in batch])
    stalls.progressed()
    return len(batch)
