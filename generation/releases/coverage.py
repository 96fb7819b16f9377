"""Coverage of a release: the prompt variants, and their texts, that it was made for.

A release whose manifest names no variants covers the whole catalogue (`Release.covers_all`) and has no rows.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

from django.db.models import Exists, OuterRef, Q, QuerySet

from generation.engine.prompts import prompt_embeds
from generation.engine.prompts.texts import normalize
from generation.engine.release import Manifest
from generation.models import Coverage, PromptVariant, Release

BATCH = 2000  # rows per INSERT


def read_texts(folder: Path, manifest: Manifest) -> Mapping[str, str]:
    """Return slug → normalised text of the covered variants; "" if the release does not contain the text.

    Raises ReleaseInvalid.
    """
    if prompt_embeds.listed(manifest) is None:
        return dict.fromkeys(manifest.covered_variants, "")
    texts = prompt_embeds.read_texts(folder, manifest)
    return {slug: normalize(text) for slug, text in texts.items()}


def write(release: Release, texts: Mapping[str, str]) -> None:
    """Insert the rows of a release that has none. texts: from `read_texts`."""
    rows = [
        Coverage(release=release, slug=slug, normalized_text=text) for slug, text in texts.items()
    ]
    Coverage.objects.bulk_create(rows, batch_size=BATCH)


def covered(release: Release, variants: QuerySet[PromptVariant]) -> QuerySet[PromptVariant]:
    """Return the variants whose slugs the release covers, independent of their current texts."""
    if release.covers_all:
        return variants
    return variants.filter(slug__in=release.coverage.values("slug"))


def condition(release: Release) -> Q:
    """Return the condition for prompt variants that the release covers with their current text."""
    if release.covers_all:
        return ~Q(pk__in=[])
    same = Coverage.objects.filter(
        Q(normalized_text="") | Q(normalized_text=OuterRef("normalized_text")),
        release=release,
        slug=OuterRef("slug"),
    )
    return Q(Exists(same))


def beyond(release: Release) -> QuerySet[PromptVariant]:
    """Return the active prompt variants whose current text the release does not cover."""
    active = PromptVariant.objects.filter(status=PromptVariant.Status.ACTIVE)
    return active.filter(~condition(release))


def covering(releases: Collection[Release]) -> QuerySet[Release]:
    """Return the releases that cover a prompt variant with its current text, for a subquery on variants."""
    slug, text = OuterRef(OuterRef("slug")), OuterRef(OuterRef("normalized_text"))
    same = Coverage.objects.filter(
        Q(normalized_text="") | Q(normalized_text=text), release=OuterRef("pk"), slug=slug
    )
    rows = Release.objects.filter(pk__in=[release.pk for release in releases])
    return rows.filter(Q(covers_all=True) | Exists(same))
