"""A document of headings, text, tables and pictures, as Markdown and as one HTML file. Knows not what it says.

Every text is plain: what could be mark-up in it is escaped.
"""

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TONES = ("good", "open", "bad")
MEDIA = {".png": "image/png", ".webp": "image/webp"}
STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-size: 0.9rem; display: block; overflow-x: auto; }
th, td { text-align: left; padding: 0.25rem 0.9rem 0.25rem 0; border-bottom: 1px solid #8884; vertical-align: top; }
img { max-width: 100%; height: auto; background: white; border-radius: 4px; }
figure { margin: 1rem 0; } figcaption { font-size: 0.85rem; opacity: 0.75; }
.badge { border-radius: 4px; padding: 0.1rem 0.5rem; font-weight: 600; color: white; white-space: nowrap; }
.good { background: #1a7f4b; } .open { background: #6b7280; } .bad { background: #b42318; }
summary { cursor: pointer; }
""".strip()


@dataclass(frozen=True)
class Badge:
    """A word that stands out. tone: of TONES."""

    text: str
    tone: str

    def __post_init__(self) -> None:
        if self.tone not in TONES:
            raise ValueError(f"tone: one of {', '.join(TONES)}, not {self.tone!r}.")


Part = str | Badge


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Paragraph:
    text: str
    badge: Badge | None = None  # before the text


@dataclass(frozen=True)
class Bullets:
    items: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    heads: tuple[str, ...]
    rows: tuple[tuple[Part, ...], ...]

    def __post_init__(self) -> None:
        if any(len(row) != len(self.heads) for row in self.rows):
            raise ValueError("rows: each has a cell for each head.")


@dataclass(frozen=True)
class Picture:
    """file: its name in the folder of the document."""

    file: str
    caption: str


@dataclass(frozen=True)
class Folded:
    """A table that opens when it is asked for."""

    title: str
    table: Table


Block = Heading | Paragraph | Bullets | Table | Picture | Folded


@dataclass(frozen=True)
class Document:
    title: str
    blocks: tuple[Block, ...]

    def markdown(self) -> str:
        return "\n\n".join([f"# {_md(self.title)}", *map(_markdown, self.blocks)]) + "\n"

    def html(self, folder: Path) -> str:
        """One file, with the pictures of the folder inside it."""
        body = "\n".join(_html(block, folder) for block in self.blocks)
        title = html.escape(self.title)
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width">\n'
            f"<title>{title}</title>\n<style>\n{STYLE}\n</style>\n</head>\n"
            f"<body>\n<h1>{title}</h1>\n{body}\n</body>\n</html>\n"
        )


def _parts(paragraph: Paragraph) -> list[Part]:
    return [part for part in (paragraph.badge, paragraph.text) if part]


# --- Markdown -------------------------------------------------------------------------------------
def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"## {_md(block.text)}"
    if isinstance(block, Paragraph):
        return " ".join(map(_md_part, _parts(block)))
    if isinstance(block, Bullets):
        return "\n".join(f"- {_md(item)}" for item in block.items)
    if isinstance(block, Picture):
        return f"![{_md(block.caption)}]({block.file})"
    if isinstance(block, Folded):
        summary = html.escape(block.title)
        return f"<details><summary>{summary}</summary>\n\n{_markdown(block.table)}\n\n</details>"
    lines: list[Sequence[str]] = [[_md(head) for head in block.heads], ["---"] * len(block.heads)]
    lines += [[_md_part(cell) for cell in row] for row in block.rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _md_part(part: Part) -> str:
    return f"**{_md(part.text)}**" if isinstance(part, Badge) else _md(part)


def _md(text: str) -> str:
    # Only what Markdown could read as mark-up within a line; a line end would end a table's row.
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", " ".join(text.split("\n")))


# --- HTML -----------------------------------------------------------------------------------------
def _html(block: Block, folder: Path) -> str:
    if isinstance(block, Heading):
        return f"<h2>{html.escape(block.text)}</h2>"
    if isinstance(block, Paragraph):
        return f"<p>{' '.join(map(_html_part, _parts(block)))}</p>"
    if isinstance(block, Bullets):
        items = "".join(f"<li>{html.escape(item)}</li>" for item in block.items)
        return f"<ul>{items}</ul>"
    if isinstance(block, Picture):
        caption = html.escape(block.caption)
        source = _data(folder / block.file)
        return f'<figure><img src="{source}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
    if isinstance(block, Folded):
        table = _html(block.table, folder)
        return f"<details><summary>{html.escape(block.title)}</summary>{table}</details>"
    heads = "".join(f"<th>{html.escape(head)}</th>" for head in block.heads)
    rows = "\n".join(
        f"<tr>{''.join(f'<td>{_html_part(cell)}</td>' for cell in row)}</tr>" for row in block.rows
    )
    return f"<table>\n<tr>{heads}</tr>\n{rows}\n</table>"


def _html_part(part: Part) -> str:
    if isinstance(part, Badge):
        return f'<span class="badge {part.tone}">{html.escape(part.text)}</span>'
    return html.escape(part)


def _data(path: Path) -> str:
    content = base64.b64encode(path.read_bytes()).decode("ascii")
    return f"data:{MEDIA[path.suffix]};base64,{content}"
