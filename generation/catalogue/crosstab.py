"""Cross table of active prompt variants by two kinds of tags, with the numbers of covered and weak ones."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from django.db.models import Case, Q, Value, When

from generation.catalogue import tags
from generation.catalogue.standing import Overview, Standing
from generation.catalogue.text_rules import NOT
from generation.models import PromptVariant

MAX_OTHERS = 500  # tags without a known kind
MAX_SHOWN = 40  # rows, and columns
NAMED = 3  # how many tags the name of a kind lists
OTHER = "other"
ALL = ""  # in place of a tag


class Variant(NamedTuple):
    """An active prompt variant. is_covered, is_weak: by its standing."""

    tags: Sequence[str]
    is_covered: bool
    is_weak: bool


@dataclass(frozen=True)
class Kind:
    """A kind's tags in its order. The kind OTHER has the tags without a known kind, most frequent first."""

    key: str
    tags: tuple[str, ...]

    @property
    def name(self) -> str:
        if self.key == OTHER:
            return "other tags"
        return ", ".join(self.tags[:NAMED]) + (" …" if len(self.tags) > NAMED else "")

    @property
    def shown(self) -> tuple[str, ...]:
        return self.tags[:MAX_SHOWN]


@dataclass(frozen=True)
class Choice:
    """Layout of a table. rows, columns: kinds; filters: other kind → tag that all variants must have, or ALL."""

    rows: Kind
    columns: Kind
    filters: Mapping[Kind, str]


@dataclass(frozen=True)
class Cell:
    """A cell of the table. tags: all tags that its variants share, in the order of the kinds."""

    tags: tuple[str, ...]
    count: int
    covered: int
    weak: int

    @property
    def is_possible(self) -> bool:
        """Return whether the rules allow a variant with these tags."""
        return not any(NOT + tag in self.tags for tag in self.tags)


def read(overview: Overview) -> list[Variant]:
    """Return the active prompt variants with one query."""
    active = overview.annotated(PromptVariant.objects.filter(status=PromptVariant.Status.ACTIVE))
    covered, weak = (_is(overview.condition(one)) for one in (Standing.COVERED, Standing.WEAK))
    rows = active.order_by().annotate(covered=covered, weak=weak)
    return [Variant(*row) for row in rows.values_list("tags", "covered", "weak")]


def _is(condition: Q) -> Case:
    return Case(When(condition, then=Value(True)), default=Value(False))


def kinds(variants: Iterable[Variant]) -> list[Kind]:
    """Return the kinds of tags that the variants have, in the order of the setting; OTHER is the last."""
    counts = Counter(tag for variant in variants for tag in variant.tags)
    known = [Kind(kind[0], kind) for kind in tags.kinds() if not counts.keys().isdisjoint(kind)]
    placed = {tag for kind in known for tag in kind.tags}
    others = [(-count, tag) for tag, count in counts.items() if tag not in placed]
    rest = tuple(tag for _, tag in sorted(others)[:MAX_OTHERS])
    return [*known, Kind(OTHER, rest)] if rest else known


def choose(found: Sequence[Kind], *, rows: str, columns: str, wanted: Iterable[str]) -> Choice:
    """Return the requested layout. rows, columns: keys of kinds; wanted: tags of the other kinds.

    Defaults are the kinds with the most tags, OTHER last. Unknown keys and tags are ignored, and so are columns equal
    to the rows, unless there is only one kind.
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
    """Return the rows, each a tag and a cell per column. The last row and the last column are ALL."""
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
