"""Choices of the form: search for prompt variants by words and tags, releases and their sizes."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db.models import Case, Count, F, Q, QuerySet, Value, When
from django.db.models.functions import MD5
from django.utils.functional import cached_property

from generation.api.views.variants import ACTIVE, examples
from generation.catalogue import tags, text_rules
from generation.catalogue.tags import Unnest
from generation.engine.prompts.texts import normalize
from generation.images import links
from generation.jobs import variant_images
from generation.models import Job, PromptVariant, Release
from generation.page import spelling
from generation.releases.default_release import Serving

MAX_VARIANTS = 50
MAX_TAGS = 24
MAX_RELEASES = 12
MAX_RECENT = 12  # variants that the list begins with
RECENT_JOBS = 200  # newest jobs of the owner that they are searched in


# --- prompt variants ------------------------------------------------------------------------------
@dataclass(frozen=True)
class Tag:
    """A tag to refine a search. count: found variants with it; None for a selected tag that is not frequent."""

    name: str
    count: int | None
    is_chosen: bool


@dataclass(frozen=True)
class Found:
    """Result of a search. variants: preceded by the selected one if the search does not list it; chosen: selection.

    total: number of found variants; of: of all active ones. is_wording: whether no variant has exactly the typed text.
    meant: the corrected words if no variant has the typed ones, else "".
    """

    variants: Sequence[PromptVariant]
    chosen: PromptVariant | None
    tags: Sequence[Tag]
    total: int
    of: int
    is_wording: bool
    meant: str = ""

    @property
    def has_more(self) -> bool:
        return self.total > len(self.variants)

    @property
    def tags_by_kind(self) -> list[list[Tag]]:
        return tags.by_kind(self.tags, lambda tag: tag.name)


def search(
    text: str, wanted: Sequence[str], *, owner: Any, slug: str = "", is_own_text: bool = False
) -> Found:
    """Search active variants with all words of `text` in any order, and all tags; at most MAX_VARIANTS, by slug.

    Without words and tags all are listed: those of the owner's newest jobs, then the others in a fixed mixed order.
    Words that no variant has are corrected. Selected is the variant with exactly this text, else `slug` (the previous
    selection) if it matches the search, else the first found variant, if there are words and their corrections are only
    typos. is_own_text: the text itself is selected, not the first found variant.
    """
    normalized = normalize(text)
    words = normalized.split()[: text_rules.MAX_WORDS]
    chosen_tags = list(dict.fromkeys(wanted))[:MAX_TAGS]
    fitting = _fitting(words, chosen_tags)
    order = ["slug"] if fitting else _mixed(owner)
    shown = list(ACTIVE.filter(fitting).order_by(*order)[:MAX_VARIANTS])
    meant, is_sure = "", True
    if words and not shown:
        corrected = spelling.correct(words, spelling.vocabulary())
        if corrected not in (None, words):
            fitting = _fitting(corrected, chosen_tags)
            shown = list(ACTIVE.filter(fitting).order_by("slug")[:MAX_VARIANTS])
        if shown and corrected:
            meant, is_sure = " ".join(corrected), spelling.are_typos(words, corrected)
            words = corrected
    same, chosen = _named(normalized, slug)
    if same is not None:
        chosen = same
    elif chosen is not None and not _fits(chosen, words, chosen_tags):
        chosen = None
    if chosen is None and words and shown and is_sure and not is_own_text:
        chosen = shown[0]
    if chosen is not None and chosen not in shown:
        shown = [chosen, *shown[: MAX_VARIANTS - 1]]
    counts = ACTIVE.aggregate(of=Count("pk"), total=Count("pk", filter=fitting or None))
    return Found(
        shown,
        chosen,
        _tags(ACTIVE.filter(fitting), chosen_tags, every=counts["total"]),
        **counts,
        is_wording=bool(normalized) and same is None,
        meant=meant,
    )


def _fitting(words: Iterable[str], tags: Collection[str]) -> Q:
    fitting = Q(tags__contains=tags) if tags else Q()
    for word in words:
        fitting &= Q(normalized_text__contains=word) | Q(slug__contains=word)
    return fitting


def _mixed(owner: Any) -> list[Case | MD5]:
    """Return the order: variants of the owner's newest jobs, then the others, mixed because similar slugs are alike."""
    newest = Job.objects.filter(owner=owner).order_by("-created_at", "-id")
    variants = newest.values_list("variant", flat=True)[:RECENT_JOBS]
    recent = list(dict.fromkeys(variants))[:MAX_RECENT]
    places = [When(pk=pk, then=Value(place)) for place, pk in enumerate(recent)]
    first = [Case(*places, default=Value(MAX_RECENT))] if places else []
    return [*first, MD5("slug")]


def _fits(variant: PromptVariant, words: Iterable[str], tags: Iterable[str]) -> bool:
    has_words = all(word in variant.normalized_text or word in variant.slug for word in words)
    return has_words and set(tags) <= set(variant.tags)


def _named(normalized: str, slug: str) -> tuple[PromptVariant | None, PromptVariant | None]:
    """Return the active variant with this text and the one with this slug, each or None."""
    if not normalized and not slug:
        return None, None
    named = PromptVariant.objects.filter(
        Q(slug=slug) | Q(normalized_text=normalized), status=PromptVariant.Status.ACTIVE
    )
    rows = list(named)
    same = next((row for row in rows if row.normalized_text == normalized), None)
    return same, next((row for row in rows if row.slug == slug), None)


def _tags(rows: QuerySet[PromptVariant], chosen: Sequence[str], *, every: int) -> list[Tag]:
    """Return the selected tags, and the most frequent tags that some but not all of the variants have.

    every: number of the variants.
    """
    counted = rows.order_by().annotate(tag=Unnest(F("tags"))).values_list("tag")
    counts = dict(counted.annotate(n=Count("pk")).order_by("-n", "tag")[:MAX_TAGS])
    return [
        *(Tag(name, counts.get(name), True) for name in chosen),
        *(
            Tag(name, count, False)
            for name, count in counts.items()
            if name not in chosen and count != every
        ),
    ]


@dataclass(frozen=True)
class Choice:
    """A variant in the list. thumbnail: URL of the user's newest picture of it, else of the variant's image, or "".
    note: why it is slow or unavailable, or ""."""

    variant: PromptVariant
    thumbnail: str
    note: str


def listed(found: Sequence[PromptVariant], *, owner: Any) -> list[Choice]:
    """Return the variants with thumbnails and notes for the user."""
    serving = Serving.now()
    rows = list(serving.annotated(PromptVariant.objects.filter(pk__in=[row.pk for row in found])))
    notes = {row.pk: _note(serving, row) for row in rows}
    shown = variant_images.shown(serving, rows)
    thumbnails = {pk: links.variant_image_path(image) for pk, image in shown.items()}
    thumbnails |= {pk: links.thumbnail_path(image) for pk, image in examples(owner, found).items()}
    return [Choice(row, thumbnails.get(row.pk, ""), notes.get(row.pk, "")) for row in found]


def _note(serving: Serving, variant: Any) -> str:
    release = serving.release(variant)
    if not serving.students:
        return ""
    if release is None:
        return "not available yet"
    if release.kind == Release.Kind.TEACHER:
        return "slow: made by the teacher"
    return "" if variant.is_covered or settings.UNCOVERED != "student" else "not trained yet"


# --- releases -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Offer:
    """A release that can be selected. sizes: WIDTHxHEIGHT, the default first."""

    name: str
    kind: str
    is_active: bool
    steps: int
    sizes: tuple[str, ...]


@dataclass(frozen=True)
class Offers:
    """Selectable releases: active ones, then the newest; at most MAX_RELEASES."""

    releases: Sequence[Offer]

    @cached_property
    def active(self) -> list[Offer]:
        return [offer for offer in self.releases if offer.is_active]

    @cached_property
    def sizes(self) -> list[tuple[str, str]]:
        """Return each size with its label, which names the supporting releases unless all support it."""
        known = list(dict.fromkeys(size for offer in self.releases for size in offer.sizes))
        makers = {
            size: [offer.name for offer in self.releases if size in offer.sizes] for size in known
        }
        every = len(self.releases)
        return [
            (size, "" if len(names) == every else ", ".join(names))
            for size, names in makers.items()
        ]


def offers() -> Offers:
    """Return the possible values of `model` and `size`."""
    rank = Case(
        When(status=Release.Status.ACTIVE, then=Value(0)),
        When(status__in=(Release.Status.SPECIALIST, Release.Status.CANDIDATE), then=Value(1)),
        default=Value(2),
    )
    rows = Release.objects.exclude(status=Release.Status.REJECTED)
    rows = rows.order_by(rank, "kind", "-registered_at")[:MAX_RELEASES]
    return Offers(
        [
            Offer(
                row.name,
                row.kind,
                row.status == Release.Status.ACTIVE,
                row.num_inference_steps,
                tuple(f"{width}x{height}" for width, height in row.image_sizes),
            )
            for row in rows
        ]
    )
