from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from jinja2 import UndefinedError

from distillation.evaluation.report import document, sheets
from distillation.evaluation.report.sheets import Row

EVIL = "<script>alert('1')</script> | *x* [y](z) & \"q\""
TEMPLATE = """
{% call doc.document(evil) %}
{{ doc.heading(evil) }}
{% call doc.paragraph() %}{{ doc.badge(evil, "open") }} {{ doc.strong(evil) }} {{ evil }}{% endcall %}
{{ doc.bullets([evil]) }}
{% call doc.folded(evil) %}
{% call doc.table([evil, "b"]) %}
{{ doc.row([evil, doc.badge("bad", "bad")]) }}
{{ doc.row(["one\ntwo", 3]) }}
{% endcall %}
{% endcall %}
{{ doc.picture("a.webp", evil) }}
{% endcall %}
"""


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
def template(tmp_path: Path) -> Path:
    sheets.write(tmp_path / "a.webp", [Row("", torch.zeros(1, 3, 32, 32, dtype=torch.uint8))])
    (tmp_path / "test.j2").write_text(TEMPLATE)
    return tmp_path / "test.j2"


DATA: dict[str, Any] = {"evil": EVIL}


def test_no_text_becomes_mark_up_in_html(template: Path):
    reader = Reader()
    reader.feed(document.html(template, DATA, images=template.parent))
    assert "script" not in reader.tags
    assert sum(text.count(EVIL) for text in reader.text) == 11  # the title twice
    assert {"table", "details", "figure", "ul", "h2", "strong"} <= set(reader.tags)


def test_no_text_becomes_mark_up_in_markdown(template: Path):
    text = document.markdown(template, DATA)
    assert "<script" not in text.replace("\\<script", "")
    assert "\\*x\\*" in text and "\\[y\\](z)" in text
    # A table is one block of lines, each with two cells, whatever the text contains.
    [table] = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(table.splitlines()) == 4
    assert all(line.replace("\\|", "").count("|") == 3 for line in table.splitlines())


def test_a_line_end_does_not_end_a_row(template: Path):
    assert "| one two | 3 |" in document.markdown(template, DATA)


def test_blocks_are_separated_by_one_blank_line(template: Path):
    text = document.markdown(template, DATA)
    assert "\n\n\n" not in text and text.startswith("# ") and text.endswith(")\n")


def test_the_html_is_one_file_with_its_images_inside(template: Path):
    reader = Reader()
    reader.feed(document.html(template, DATA, images=template.parent))
    [source] = reader.sources
    assert source.startswith("data:image/webp;base64,")


def test_a_missing_value_is_an_error(template: Path):
    with pytest.raises(UndefinedError, match="evil"):
        document.markdown(template, {})
