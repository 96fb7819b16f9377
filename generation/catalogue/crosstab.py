"""Cross table of active prompt variants by tags of two kinds: how many there are, are covered, are weak."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from django.db.models import Case, Q, Value, When

from generation.catalogue import tags
from generation.catalogue.standing import Board, Standing
from generation.catalogue.text_rules import NOT
from generation.models import PromptVariant

MOST_OTHERS = 500  # tags of no known kind
MOST_SHOWN = 40  # tags of a kind as rows, or as columns
NAMED = 3  # tags in the name of a kind
OTHER = "other"
ALL = ""  # in place of a tag


class Variant(NamedTuple):
    """An active prompt variant. is_covered, is_weak: by its standing."""

    tags: Sequence[str]
    is_covered: bool
    is_weak: bool


@dataclass(frozen=True)
class Kind:
    """Tags of a known kind in its order; or those of none, the most frequent first, with the key OTHER."""

    key: str
    tags: tuple[str, ...]

    @property
    def name(self) -> str:
        if self.key == OTHER:
            return "other tags"
        return ", ".join(self.tags[:NAMED]) + (" …" if len(self.tags) > NAMED else "")

    @property
    def shown(self) -> tuple[str, ...]:
        return self.tags[:MOST_SHOWN]


@dataclass(frozen=True)
class Choice:
    """rows, columns: their kinds; filters: the tag that all variants must have, ALL for any, by each other kind."""

    rows: Kind
    columns: Kind
    filters: Mapping[Kind, str]


@dataclass(frozen=True)
class Cell:
    """tags: which all of these variants have, in the order of the kinds."""

    tags: tuple[str, ...]
    count: int
    covered: int
    weak: int

    @property
    def is_possible(self) -> bool:
        """Return whether a variant may have these tags."""
        return not any(NOT + tag in self.tags for tag in self.tags)


def read(board: Board) -> list[Variant]:
    """Return the active prompt variants, by one query."""
    active = board.annotated(PromptVariant.objects.filter(status=PromptVariant.Status.ACTIVE))
    covered, weak = (_is(board.condition(one)) for one in (Standing.COVERED, Standing.WEAK))
    rows = active.order_by().annotate(covered=covered, weak=weak)
    return [Variant(*row) for row in rows.values_list("tags", "covered", "weak")]


def _is(condition: Q) -> Case:
    return Case(When(condition, then=Value(True)), default=Value(False))


def kinds(variants: Iterable[Variant]) -> list[Kind]:
    """Return the kinds with a tag that a variant has, in the project's order; those of no known kind are the last."""
    counts = Counter(tag for variant in variants for tag in variant.tags)
    known = [Kind(kind[0], kind) for kind in tags.kinds() if not counts.keys().isdisjoint(kind)]
    placed = {tag for kind in known for tag in kind.tags}
    others = [(-count, tag) for tag, count in counts.items() if tag not in placed]
    rest = tuple(tag for _, tag in sorted(others)[:MOST_OTHERS])
    return [*known, Kind(OTHER, rest)] if rest else known


def choose(found: Sequence[Kind], *, rows: str, columns: str, wanted: Iterable[str]) -> Choice:
    """Return what a person chose among one kind or more. rows, columns: keys; wanted: tags of the other kinds.

    The default is the kind with the most tags, those of no known kind last. Unknown keys and tags are ignored; so are
    the same columns as rows, unless there is one kind only.
    """
    ranked = sorted(found, key=lambda kind: (kind.key == OTHER, -len(kind.tags)))
    by_key = {kind.key: kind for kind in found}
    first = by_key.get(rows, ranked[0])
    others = [kind for kind in ranked if kind != first] or ranked
    second = by_key.get(columns, others[0])
    if second not in others:
        second = others[0]
    rest = [kind for kind in found if kind not in (first, second)]
    given = list(wanted)
    filters = {kind: next((tag for tag in given if tag in kind.tags), ALL) for kind in rest}
    return Choice(first, second, filters)


def table(
    variants: Iterable[Variant], found: Sequence[Kind], choice: Choice
) -> list[tuple[str, list[Cell]]]:
    """Return the rows, each with its tag and a cell for each column. The last row and the last column are ALL."""
    rows, columns = (*choice.rows.shown, ALL), (*choice.columns.shown, ALL)
    filters = [tag for tag in choice.filters.values() if tag]
    total: Counter[tuple[str, str]] = Counter()
    covered, weak = total.copy(), total.copy()
    is_row, is_column = set(choice.rows.shown), set(choice.columns.shown)
    for variant in variants:
        if not all(tag in variant.tags for tag in filters):
            continue
        its_rows = (*(tag for tag in variant.tags if tag in is_row), ALL)
        its_columns = (*(tag for tag in variant.tags if tag in is_column), ALL)
        for place in product(its_rows, its_columns):
            total[place] += 1
            covered[place] += variant.is_covered
            weak[place] += variant.is_weak
    order = {tag: number for number, tag in enumerate(tag for kind in found for tag in kind.tags)}

    def cell(row: str, column: str) -> Cell:
        its_tags = {row, column, *filters} - {ALL}
        place = row, column
        ordered = tuple(sorted(its_tags, key=order.__getitem__))
        return Cell(ordered, total[place], covered[place], weak[place])

    return [(row, [cell(row, column) for column in columns]) for row in rows]
