"""Routing of requests to a prompt variant and the release that serves it.

The release is named in the request, or follows from coverage and quality of the releases for the variant, the floor of
quality, the setting UNCOVERED, and a canary. `releases.default_release` has the same rules for many prompt variants.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from django.conf import settings
from django.db import connection
from django.db.models import Model
from django.template.defaultfilters import pluralize

from generation.catalogue import variants as catalogue
from generation.errors import VariantNotCovered
from generation.jobs import rows, sampling
from generation.models import Embedding, PromptVariant, Release
from generation.releases import lifecycle as releases
from generation.releases import quality

M = TypeVar("M", bound=Model)
Kind, Status = Release.Kind, Release.Status


@dataclass(frozen=True)
class Candidate:
    """A release that may serve a request for the variant.

    covers: whether it was made for the variant with its current text. embedding: that text's under the release's
    encoder, possibly failed, without its data (100 KB that only a worker needs); None if there is no row. share: of
    right ones among its pictures of that text; None if too few were judged.
    """

    release: Release
    covers: bool
    embedding: Embedding | None
    share: float | None

    @property
    def is_encoded(self) -> bool:
        return self.embedding is not None and not self.embedding.error


@dataclass(frozen=True)
class Route:
    """The variant, release and embedding that a request resolved to."""

    variant: PromptVariant
    release: Release
    embedding: Embedding


def resolve(model: str | None, *, slug: str, sampling_key: str = "") -> Route:
    """Return the route of a request for the active variant with this slug. model, sampling_key: see `choose`.

    Raises VariantNotFound and the exceptions of `choose`.
    """
    found = find(model, slug=slug)
    # If there is no row, `catalogue.find` raises the reason.
    variant, candidates = found or (catalogue.find(slug=slug), [])
    return choose(model, variant, candidates, sampling_key=sampling_key)


# --- finding --------------------------------------------------------------------------------------
_VARIANT = rows.names(PromptVariant)
_RELEASE = rows.names(Release)
_EMBEDDING = rows.names(Embedding, without="data")
_SELECTED = ", ".join(
    f"{table}.{column}"
    for table, columns in (
        ("variant", _VARIANT),
        ("release", _RELEASE),
        ("embedding", _EMBEDDING),
    )
    for column in columns
)
# Hand-written: the ORM cannot join variants with releases, which have no common key.
_FIND = f"""
SELECT release.covers_all OR coverage.id IS NOT NULL,
       quality.evaluated_right + quality.judged_right, quality.evaluated + quality.judged, {_SELECTED}
  FROM generation_promptvariant variant
  LEFT JOIN generation_release release ON {{releases}}
  LEFT JOIN generation_coverage coverage ON coverage.release_id = release.id
        AND coverage.slug = variant.slug AND coverage.normalized_text IN ('', variant.normalized_text)
  LEFT JOIN generation_quality quality ON quality.release_id = release.id
        AND quality.normalized_text = variant.normalized_text
  LEFT JOIN generation_embedding embedding ON embedding.variant_id = variant.id
        AND embedding.revision = variant.revision
        AND embedding.encoder_fingerprint = release.encoder_fingerprint
 WHERE variant.status = 'active'
   AND (variant.slug = %(slug)s OR variant.normalized_text = %(normalized_text)s)
 ORDER BY release.status, release.kind, release.id
"""
_FIND_IN_SERVICE = _FIND.format(
    releases="release.status IN ('active', 'specialist') OR release.canary_percent > 0"
)
_FIND_BY_NAME = _FIND.format(releases="release.name = %(name)s AND release.status <> 'rejected'")


def find(
    model: str | None, *, slug: str | None = None, normalized_text: str | None = None
) -> tuple[PromptVariant, list[Candidate]] | None:
    """Return the active variant with this slug or text and the releases that may serve it, or None without a variant.

    model: see `choose`. Unless it is a name, the candidates are all releases in service, in the order of
    `releases.in_service`.
    """
    asked = {"slug": slug, "normalized_text": normalized_text, "name": model}
    if any("\0" in value for value in asked.values() if value):
        return None  # PostgreSQL would refuse it
    with connection.cursor() as cursor:
        cursor.execute(_FIND_BY_NAME if is_name(model) else _FIND_IN_SERVICE, asked)
        found = cursor.fetchall()
    candidates = []
    variant = None
    for covers, right, judged, *columns in found:
        values = iter(columns)
        variant = _instance(PromptVariant, _VARIANT, values)
        release = _instance(Release, _RELEASE, values)
        embedding = _instance(Embedding, _EMBEDDING, values)
        if release is not None:
            share = quality.concluded(right, judged)
            candidates.append(Candidate(release, covers, embedding, share))
    return None if variant is None else (variant, candidates)


def _instance(model: type[M], columns: Sequence[str], rest: Iterator[Any]) -> M | None:
    """Build an instance from the model's columns of a row. None: the join found no row."""
    values = list(islice(rest, len(columns)))
    return None if values[0] is None else rows.instance(model, columns, values)


def is_name(model: str | None) -> bool:
    """Return whether `model` is the name of a release, not a kind."""
    return model is not None and model not in Release.Kind.values


# --- choosing -------------------------------------------------------------------------------------
def choose(
    model: str | None,
    variant: PromptVariant,
    candidates: Sequence[Candidate],
    *,
    sampling_key: str = "",
) -> Route:
    """Return the route: the release that serves the request, and its embedding of the variant.

    model: a kind, a name, or None. None means the active student, or a specialist that is better for the variant. If no
    student covers the variant, UNCOVERED decides: the teacher, the active student anyway, or an error. If the student
    is weak for the variant and the teacher is better, the teacher serves it. sampling_key: decides whether a canary
    serves the request; equal requests should have equal keys. Raises ReleaseNotAvailable, VariantNotCovered,
    VariantNotEncoded, EncodingFailed.
    """
    chosen = _chosen(model, variant, candidates, sampling_key)
    row = chosen.embedding
    if row is None or row.error:
        raise catalogue.not_encoded(variant, chosen.release, row)
    return Route(variant, chosen.release, row)


def _chosen(
    model: str | None, variant: PromptVariant, candidates: Sequence[Candidate], sampling_key: str
) -> Candidate:
    if is_name(model):
        if not candidates:
            raise releases.not_available(model)
        (named,) = candidates
        if not named.covers:
            raise _not_covered(named.release, variant)
        return named
    active = [
        one
        for one in candidates
        if one.release.status == Status.ACTIVE and model in (None, one.release.kind)
    ]
    student = None if model == Kind.TEACHER else _student(candidates)
    canary = _canary(model, variant, student, candidates, sampling_key)
    if canary is not None:
        return canary
    first = student or next(iter(active), None)
    if first is None:
        raise releases.not_available(model)
    if model is None and settings.UNCOVERED == "student":
        return first
    others = [one for one in active if one.covers and one.release.kind != Kind.STUDENT]
    covering = [*([] if student is None else [student]), *others]
    if settings.UNCOVERED == "refuse":
        covering = [one for one in covering if one is first]
    if not covering:
        raise _not_covered(first.release, variant)
    return _good(covering, variant) if model is None else covering[0]


def _student(candidates: Sequence[Candidate]) -> Candidate | None:
    """Return the best student in service for the variant, except canaries; None if none covers it."""
    students = [
        one
        for one in candidates
        if one.covers
        and one.release.kind == Kind.STUDENT
        and (one.release.status == Status.ACTIVE or (_is_specialist(one) and one.is_encoded))
    ]

    def place(one: Candidate) -> tuple[float, bool]:
        return quality.best_first(one.share, is_main=not _is_specialist(one))

    return min(students, key=place, default=None)


def _is_specialist(one: Candidate) -> bool:
    return one.release.status == Status.SPECIALIST


def _canary(
    model: str | None,
    variant: PromptVariant,
    student: Candidate | None,
    candidates: Sequence[Candidate],
    sampling_key: str,
) -> Candidate | None:
    """Return the canary if it serves the request. It never replaces a specialist, with which it is not compared."""
    kind = model or Kind.STUDENT
    if student is not None and _is_specialist(student):
        return None
    for one in candidates:
        share = one.release.canary_percent / 100
        if share == 0 or one.release.kind != kind or not one.covers:
            continue
        if model is None and quality.is_weak(one.share, quality.floor(variant, one.release)):
            continue
        if sampling.is_in_share(sampling_key, share):
            return one
    return None


def _good(covering: Sequence[Candidate], variant: PromptVariant) -> Candidate:
    """Return the first candidate or, if it is weak for the variant, the next better one."""
    first, *others = covering
    if not quality.is_weak(first.share, quality.floor(variant, first.release)):
        return first
    better = (
        one for one in others if quality.serves_better(one.share, first.share) and one.is_encoded
    )
    return next(better, first)


def _not_covered(release: Release, variant: PromptVariant) -> VariantNotCovered:
    if release.coverage.filter(slug=variant.slug).exists():
        why = f"{variant.slug} had another text when the release {release.name} was made."
    else:
        count = release.coverage.count()
        why = f"The release {release.name} covers {count} prompt variant{pluralize(count)}, but not {variant.slug}."
    return VariantNotCovered(f"{why} Request another model.", parameter="model")
