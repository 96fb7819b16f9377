"""Prompt variants that another release serves once a release begins or ends its service."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from django.template.defaultfilters import pluralize

from generation.models import PromptVariant, Release
from generation.releases.default_release import Serving

Kind = Release.Kind
NAMED = 3  # slugs in a sentence


@dataclass(frozen=True)
class Move:
    """Active variants whose release changes. before, after: None if requests for them are refused.

    is_made_for: whether `after` was made for their texts.
    """

    before: Release | None
    after: Release | None
    is_made_for: bool
    slugs: tuple[str, ...]

    def __str__(self) -> str:
        count = len(self.slugs)
        variants, them = f"{count} prompt variant{pluralize(count)}", pluralize(count, "it,them")
        more = f" and {count - NAMED} more" if count > NAMED else ""
        named = ", ".join(self.slugs[:NAMED]) + more
        if self.after is None:
            return (
                f"{variants} that {self.before} serves now will have no release, and requests for {them} are refused: "
                f"{named}."
            )
        if self.before is None:
            begins = f"{variants} that no release serves now will be served by {self.after}"
        else:
            begins = f"{variants} will change from {self.before} to {self.after}"
        if not self.is_made_for:
            begins += f", which was not made for {them}, so that the pictures may be poor"
        elif self.after.kind == Kind.TEACHER and self.before and self.before.kind != Kind.TEACHER:
            begins += ", the teacher, which is slower"
        return f"{begins}: {named}."


# --- what would serve -----------------------------------------------------------------------------
def activated(now: Serving, release: Release) -> Serving:
    """Return what serves once the release is the active one of its kind."""
    if release.kind == Kind.TEACHER:
        return replace(now, teacher=release)
    return replace(retired(now, release), student=release)


def beside(now: Serving, release: Release) -> Serving:
    """Return what serves once the release is a specialist."""
    return replace(now, specialists=(*now.specialists, release))


def retired(now: Serving, specialist: Release) -> Serving:
    """Return what serves once the specialist is retired."""
    return replace(now, specialists=tuple(one for one in now.specialists if one != specialist))


# --- what changes ---------------------------------------------------------------------------------
def paragraphs(change: Callable[[Serving, Release], Serving], release: Release) -> str:
    """Return what the change would move now, each move as a further paragraph of a question; "" for none."""
    now = Serving.now()
    return "".join(f"\n\n{move}" for move in moves(now, change(now, release)))


def moves(before: Serving, after: Serving) -> list[Move]:
    """Return the changes between two states of service, those of the most variants first."""
    found: dict[tuple[Release | None, Release | None, bool], list[str]] = defaultdict(list)
    releases_before = {row.slug: before.release(row) for row in _served(before)}
    for row in _served(after):
        was, release = releases_before.get(row.slug), after.release(row)
        if was != release:
            is_made_for = row.is_covered or row.served_by == Kind.TEACHER
            found[was, release, is_made_for].append(row.slug)
    rows = [Move(*change, tuple(slugs)) for change, slugs in found.items()]
    return sorted(rows, key=lambda move: -len(move.slugs))


def _served(serving: Serving) -> Any:
    variants = PromptVariant.objects.filter(status=PromptVariant.Status.ACTIVE)
    columns = ("slug", "served_by", "is_covered", "best_student")
    return serving.annotated(variants).order_by("slug").values_list(*columns, named=True)
