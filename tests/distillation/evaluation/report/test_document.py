from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from distillation.evaluation.report import sheets
from distillation.evaluation.report.document import (
    Badge,
    Bullets,
    Document,
    Folded,
    Heading,
    Paragraph,
    Picture,
    Table,
)
from distillation.evaluation.report.sheets import Row

EVIL = "<script>alert('1')</script> | *x* [y](z) & \"q\""


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name == "src"]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture
def evil(tmp_path: Path) -> Document:
    sheets.write(tmp_path / "a.webp", [Row("", torch.zeros(1, 3, 32, 32, dtype=torch.uint8))])
    table = Table((EVIL, "b"), ((EVIL, Badge("bad", "bad")),))
    blocks = (
        Heading(EVIL),
        Paragraph(EVIL, Badge(EVIL, "open")),
        Bullets((EVIL,)),
        table,
        Picture("a.webp", EVIL),
        Folded(EVIL, table),
    )
    return Document(EVIL, blocks)


def test_no_text_becomes_mark_up_in_html(evil: Document, tmp_path: Path):
    reader = Reader()
    reader.feed(evil.html(tmp_path))
    assert "script" not in reader.tags
    assert sum(EVIL in text for text in reader.text) == 12  # the title twice
    assert {"table", "details", "figure", "ul", "h2"} <= set(reader.tags)


def test_no_text_becomes_mark_up_in_markdown(evil: Document):
    text = evil.markdown()
    assert "<script" not in text.replace("\\<script", "")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    # Three lines for each of the two tables, each with two cells whatever the text holds.
    assert len(rows) == 6
    assert all(line.replace("\\|", "").count("|") == 3 for line in rows)
    assert "\\*x\\*" in text and "\\[y\\](z)" in text


def test_a_line_end_does_not_end_a_row():
    text = Document("t", (Table(("a",), (("one\ntwo",),)),)).markdown()
    assert "| one two |" in text


def test_the_html_is_one_file_with_its_pictures_inside(evil: Document, tmp_path: Path):
    reader = Reader()
    reader.feed(evil.html(tmp_path))
    [source] = reader.sources
    assert source.startswith("data:image/webp;base64,")


def test_rows_and_tones_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="rows"):
        Table(("a", "b"), (("one",),))
    with pytest.raises(ValueError, match="tone"):
        Badge("x", "pink")
