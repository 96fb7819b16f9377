"""Cross table of the catalogue: kinds of tags, choice of rows and columns, counts by two tags."""

import pytest

from generation.catalogue import crosstab
from generation.catalogue.crosstab import Cell, Kind, Variant
from generation.catalogue.standing import Overview
from tests.factories import cover, make_embedding, make_quality, make_release, make_variant

OBJECTS = Kind("vase", ("vase", "bowl", "mug"))
COLOURS = Kind("red", ("red", "blue"))
GROUNDS = Kind("table", ("table", "cloth"))
OTHERS = Kind("other", ("tall", "old", "not-tall", "new"))


def kinds() -> tuple[tuple[str, ...], ...]:
    return COLOURS.tags, OBJECTS.tags, ("clay", "glass")


@pytest.fixture(autouse=True)
def known(settings) -> None:
    settings.TAG_KINDS = f"{__name__}.kinds"


def variant(tags: str, *, is_covered: bool = False, is_weak: bool = False) -> Variant:
    return Variant(tags.split(), is_covered, is_weak)


def counts(cells: list[Cell]) -> list[tuple[int, int, int]]:
    return [(cell.count, cell.covered, cell.weak) for cell in cells]


# --- kinds ----------------------------------------------------------------------------------------
def test_tags_of_no_known_kind_are_one_kind_the_most_frequent_first():
    found = crosstab.kinds([variant("mug old"), variant("tall red"), variant("tall"), variant("")])
    assert found == [COLOURS, OBJECTS, Kind("other", ("tall", "old"))]
    assert [kind.name for kind in found] == ["red, blue", "vase, bowl, mug", "other tags"]
    assert Kind("a", tuple("abcd")).name == "a, b, c …"


def test_without_known_kinds_and_tags_there_are_no_kinds(settings):
    settings.TAG_KINDS = ""
    assert crosstab.kinds([variant("mug")]) == [Kind("other", ("mug",))]
    assert crosstab.kinds([variant("")]) == []


# --- choice of rows and columns -------------------------------------------------------------------
def choose(*found: Kind, rows: str = "", columns: str = "", wanted: tuple[str, ...] = ()):
    choice = crosstab.choose(found, rows=rows, columns=columns, wanted=wanted)
    return choice.rows, choice.columns, dict(choice.filters)


def test_the_known_kinds_with_most_tags_are_the_default():
    every = COLOURS, OBJECTS, GROUNDS, OTHERS
    assert choose(*every) == (OBJECTS, COLOURS, {GROUNDS: "", OTHERS: ""})
    assert choose(*every, rows="nonsense", columns="") == choose(*every)
    assert choose(COLOURS, OTHERS) == (COLOURS, OTHERS, {})


def test_rows_columns_and_filters_are_chosen():
    every = COLOURS, OBJECTS, GROUNDS, OTHERS
    found = choose(*every, rows="table", columns="other", wanted=("", "blue", "vase"))
    assert found == (GROUNDS, OTHERS, {COLOURS: "blue", OBJECTS: "vase"})


def test_filters_of_the_table_itself_and_unknown_ones_are_ignored():
    every = COLOURS, OBJECTS, GROUNDS
    assert choose(*every, wanted=("vase", "red", "nonsense")) == choose(*every)


def test_the_same_kind_is_rows_and_columns_only_where_it_is_the_only_one():
    assert choose(COLOURS, OBJECTS, rows="vase", columns="vase")[:2] == (OBJECTS, COLOURS)
    assert choose(OTHERS, rows="other") == (OTHERS, OTHERS, {})


# --- counts ---------------------------------------------------------------------------------------
def test_cells_and_totals_count_variants_with_both_tags():
    variants = [
        variant("vase red", is_covered=True),
        variant("vase red", is_covered=True, is_weak=True),
        variant("vase blue tall"),
        variant("bowl"),
        variant("", is_covered=True),
    ]
    every = [OBJECTS, COLOURS]
    choice = crosstab.choose(every, rows="vase", columns="red", wanted=())
    table = dict(crosstab.table(variants, every, choice))
    assert list(table) == ["vase", "bowl", "mug", ""]
    assert counts(table["vase"]) == [(2, 2, 1), (1, 0, 0), (3, 2, 1)]
    assert counts(table["bowl"]) == [(0, 0, 0), (0, 0, 0), (1, 0, 0)]
    assert counts(table["mug"]) == [(0, 0, 0)] * 3
    assert counts(table[""]) == [(2, 2, 1), (1, 0, 0), (5, 3, 1)]


def test_filters_leave_out_variants_and_are_tags_of_each_cell_in_the_order_of_kinds():
    variants = [variant("table vase red"), variant("cloth vase red"), variant("vase blue")]
    every = [OBJECTS, COLOURS, GROUNDS]
    choice = crosstab.choose(every, rows="red", columns="vase", wanted=("table",))
    table = dict(crosstab.table(variants, every, choice))
    assert [cell.count for cell in table["red"]] == [1, 0, 0, 1]
    assert [cell.count for cell in table["blue"]] == [0] * 4
    assert table["red"][0].tags == ("vase", "red", "table")
    assert table[""][-1].tags == ("table",)


def test_with_one_kind_a_cell_counts_variants_with_two_of_its_tags():
    choice = crosstab.choose([OTHERS], rows="", columns="", wanted=())
    table = dict(crosstab.table([variant("tall old"), variant("old")], [OTHERS], choice))
    assert [cell.count for cell in table["old"]] == [1, 2, 0, 0, 2]
    assert table["old"][0].tags == ("tall", "old") and table["old"][1].tags == ("old",)
    assert [cell.is_possible for cell in table["tall"]] == [True, True, False, True, True]


def test_at_most_forty_tags_of_a_kind_are_shown():
    many = Kind("other", tuple(f"t{number}" for number in range(60)))
    choice = crosstab.choose([many], rows="", columns="", wanted=())
    table = crosstab.table([variant("t59")], [many], choice)
    assert len(table) == len(table[0][1]) == 41
    assert table[-1][1][-1].count == 1


# --- rows -----------------------------------------------------------------------------------------
@pytest.mark.django_db
def test_active_variants_are_read_with_their_standing(django_assert_num_queries):
    student = make_release(name="s")
    make_release(name="t", kind="teacher")
    for slug in ("good", "weak", "new"):
        make_embedding(variant=make_variant(slug=slug, tags=[slug, "vase"]))
    make_variant(slug="old", status="archived")
    make_variant(slug="draft", status="draft")
    cover(student, {"good": "good", "weak": "weak"})
    make_quality(student, "good", 4)
    make_quality(student, "weak", 1)
    overview = Overview.now()
    found = {row.tags[0]: row for row in crosstab.read(overview)}
    assert found == {
        "good": Variant(["good", "vase"], True, False),
        "weak": Variant(["weak", "vase"], True, True),
        "new": Variant(["new", "vase"], False, False),
    }
    assert sum(row.is_covered for row in found.values()) == overview.counts["covered"]
    assert sum(row.is_weak for row in found.values()) == overview.counts["weak"]
