"""Which release serves a request: the one that is named, or by what each covers, the setting UNCOVERED and a canary."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import structlog
from django.conf import settings

from generation.catalogue import variants as catalogue
from generation.engine import prompt_embeds
from generation.engine.errors import ReleaseInvalid
from generation.errors import ReleaseNotAvailable, VariantNotCovered
from generation.jobs import sampling
from generation.models import PromptVariant, Release
from generation.releases import lifecycle as releases

log = structlog.get_logger(__name__)


def resolve(
    model: str | None = None,
    *,
    variant: PromptVariant,
    lot: str = "",
    in_service: Sequence[Release] | None = None,
) -> Release:
    """The release that a request for this prompt variant means.

    model: a kind, a name, or None for what UNCOVERED says where the student does not cover the variant: the teacher,
    the student all the same, or nothing. lot: decides, by its hash, whether a canary serves the request; the same
    request should have the same. in_service: as `releases.in_service`, if that was asked already. Raises
    ReleaseNotAvailable and VariantNotCovered.
    """
    active: list[Release] = []
    if model is None or model in Release.Kind.values:
        for release in releases.in_service() if in_service is None else in_service:
            if release.status == Release.Status.ACTIVE:
                active.append(release)
            elif release.kind == (model or Release.Kind.STUDENT) and _tries(release, variant, lot):
                return release
    if model is not None:
        release = releases.named(model)
        if not covers(release, variant):
            raise _not_covered(release, variant)
        return release
    if active and settings.UNCOVERED == "student":
        return active[0]
    for release in active if settings.UNCOVERED == "teacher" else active[:1]:
        if covers(release, variant):
            return release
    if active:
        raise _not_covered(active[0], variant)
    raise ReleaseNotAvailable(
        "No release is active. Activate one: manage.py release activate NAME.", parameter="model"
    )


def covers(release: Release, variant: PromptVariant) -> bool:
    """Whether the release was made for this variant, and for its text; one that names none is for all."""
    if not release.manifest["covered_variants"]:
        return True
    if variant.slug not in _covered(release):
        return False
    is_as_it_was = variant.revision == 1 and (
        variant.created_at is None or variant.created_at <= release.registered_at
    )
    if is_as_it_was or not prompt_embeds.brings(release.manifest):
        return True
    return texts(release).get(variant.slug, "") == variant.normalized_text


def _covered(release: Release) -> frozenset[str]:
    """Slugs. Kept, for a list is read from one end to the other at every request."""
    key = (release.pk, release.manifest_sha256)
    if key not in _slugs:
        if len(_slugs) > 64:
            _slugs.clear()
        _slugs[key] = frozenset(release.manifest["covered_variants"])
    return _slugs[key]


_slugs: dict[tuple[int, str], frozenset[str]] = {}


def texts(release: Release) -> Mapping[str, str]:
    """The normalised texts that the release was made for, by slug; none if it does not say, or cannot be read."""
    if not prompt_embeds.brings(release.manifest):
        return {}
    try:
        return _texts(releases.folder(release), release.manifest_sha256, release.pk)
    except ReleaseInvalid as error:
        log.warning("texts_unreadable", release=release.name, error=error.detail)
        return {}


@lru_cache(maxsize=8)
def _texts(folder: Path, _sha256: str, pk: int) -> Mapping[str, str]:
    """Of an immutable folder, so it is read once."""
    manifest = Release.objects.values_list("manifest", flat=True).get(pk=pk)
    return {
        slug: catalogue.normalize(text) for slug, text, _ in prompt_embeds.read(folder, manifest)
    }


def _tries(canary: Release, variant: PromptVariant, lot: str) -> bool:
    """Whether this request is of the canary's share."""
    return sampling.drawn(lot) < canary.canary_percent / 100 and covers(canary, variant)


def _not_covered(release: Release, variant: PromptVariant) -> VariantNotCovered:
    count = len(release.manifest["covered_variants"])
    if variant.slug in release.manifest["covered_variants"]:
        why = f"{variant.slug} had another text when the release {release.name} was made."
    else:
        why = f"The release {release.name} covers {count} prompt variants, and {variant.slug} is not one of them."
    return VariantNotCovered(f"{why} Ask for another model.", parameter="model")
