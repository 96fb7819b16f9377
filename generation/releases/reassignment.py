"""Prompt variants whose release changes when a release enters or leaves service."""

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
                f"{variants} of {self.before} will have no release, and requests for {them} will be refused: "
                f"{named}."
            )
        if self.before is None:
            begins = f"{variants} without a release will be served by {self.after}"
        else:
            begins = f"{variants} will change from {self.before} to {self.after}"
        if not self.is_made_for:
            begins += f", which was not made for {them}, so that the pictures may be poor"
        elif self.after.kind == Kind.TEACHER and self.before and self.before.kind != Kind.TEACHER:
            begins += ", the teacher, which is slower"
        return f"{begins}: {named}."


# --- hypothetical states of service ---------------------------------------------------------------
def activated(now: Serving, release: Release) -> Serving:
    """Return the releases in service after this one is activated."""
    if release.kind == Kind.TEACHER:
        return replace(now, teacher=release)
    return replace(retired(now, release), student=release)


def beside(now: Serving, release: Release) -> Serving:
    """Return the releases in service after this one becomes a specialist."""
    return replace(now, specialists=(*now.specialists, release))


def retired(now: Serving, specialist: Release) -> Serving:
    """Return the releases in service after the specialist is retired."""
    return replace(now, specialists=tuple(one for one in now.specialists if one != specialist))


# --- differences ----------------------------------------------------------------------------------
def paragraphs(change: Callable[[Serving, Release], Serving], release: Release) -> str:
    """Return the moves that the change would cause, one paragraph each, to append to a question; "" without moves."""
    now = Serving.now()
    return "".join(f"\n\n{move}" for move in moves(now, change(now, release)))


def moves(before: Serving, after: Serving) -> list[Move]:
    """Return the moves between two states of service, largest first."""
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
