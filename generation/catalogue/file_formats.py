"""File formats of the catalogue: CSV and JSON, in the variants that spreadsheets and programs write."""

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import tablib
from import_export import widgets
from import_export.formats import base_formats

from generation.catalogue import text_rules
from generation.errors import InvalidRequest
from generation.infra.database import UNSTORABLE

COLUMNS = ("slug", "text", "tags", "status", "notes")
# An import reads a file into memory, and locks the catalogue meanwhile.
MAX_ROWS = 100_000
MAX_BYTES = 16_777_216
MAX_COLUMNS = 100
LIMITS = f"at most {MAX_ROWS:,} rows and {MAX_BYTES // 2**20} MiB"  # in words
TOO_LARGE = (
    f"The file is too large: an import has {LIMITS}. Split the file. "
    "A line break within a cell counts as a row."
)


class TagList(list):
    """Tags of a variant: a list in JSON; `a|b` in CSV, whose writer calls str()."""

    def __str__(self) -> str:
        return "|".join(self)


class TagsWidget(widgets.Widget):
    def clean(self, value: Any, row: Any = None, **kwargs: Any) -> list[str]:
        if isinstance(value, str):
            value = value.replace("|", ",").split(",")
        if not isinstance(value, list) or not all(isinstance(tag, str) for tag in value):
            raise ValueError("Give tags separated by commas or bars, or as a list.")
        return text_rules.tidy_tags(value)

    def render(self, value: Any, obj: Any = None, **kwargs: Any) -> TagList:
        return TagList(value or [])


def known_columns(head: Sequence[Any]) -> list[str]:
    """Return the names of the columns. Raises ValueError for unknown and duplicate ones."""
    if len(head) > MAX_COLUMNS:
        raise ValueError(f"The head has more than {MAX_COLUMNS} columns. Use {', '.join(COLUMNS)}.")
    headers = [str(header or "").strip() for header in head]
    _check_texts("The head", headers)
    unknown = [header or "(without a name)" for header in headers if header not in COLUMNS]
    if unknown:
        raise ValueError(f"Unknown columns: {', '.join(unknown)}. Use {', '.join(COLUMNS)}.")
    if len(set(headers)) != len(headers):
        raise ValueError("A column appears more than once.")
    return headers


def checked(dataset: tablib.Dataset) -> tablib.Dataset:
    """Return the dataset with a column for slugs. Raises ValueError for unknown columns and values other than text."""
    headers = known_columns(dataset.headers or [])
    if len(dataset) and "text" not in headers:
        raise ValueError("The column text is missing.")
    for number, row in enumerate(dataset, 1):
        # `TagsWidget` checks tags.
        _check_texts(
            f"Row {number}",
            [
                text
                for header, cell in zip(headers, row, strict=True)
                for text in (cell if header == "tags" and isinstance(cell, list) else [cell])
            ],
        )
    dataset.headers = headers
    if "slug" not in headers:
        dataset.append_col([""] * len(dataset), header="slug")
    return dataset


def _check_texts(where: str, texts: Iterable[Any]) -> None:
    for text in texts:
        if text is not None and not isinstance(text, str):
            raise ValueError(f"{where} has {text!r}. Give texts, in quotation marks.")
        if text and UNSTORABLE.search(text):
            raise ValueError(f"{where} has a NUL character or half a surrogate pair. Remove it.")


_FORMULA = re.compile(
    r"'*[=+\-@\t\r\n]"
)  # beginnings that spreadsheets evaluate as formulas, also quoted


def check_bytes(count: int) -> None:
    """Raise ValueError for a file of too many bytes."""
    if count > MAX_BYTES:
        raise ValueError(TOO_LARGE)


def _check_rows(count: int) -> None:
    if count > MAX_ROWS:
        raise ValueError(TOO_LARGE)


def _line_breaks(text: str) -> int:
    return text.count("\n") + text.count("\r") - text.count("\r\n")


SEPARATORS = ",;\t"


def decoded(content: str | bytes) -> str:
    """Decode a file in UTF-8, UTF-16 with byte order mark, or Windows-1252, of at most MAX_BYTES. Raises ValueError."""
    check_bytes(len(content))
    if isinstance(content, str):
        return content
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    try:
        return content.decode("cp1252")
    except UnicodeDecodeError as error:
        raise ValueError("The file is neither in UTF-8 nor in Windows-1252.") from error


def separator(text: str) -> str:
    """Return the column separator of the header."""
    header = text.lstrip().partition("\n")[0]
    return max(SEPARATORS, key=header.count)


class CatalogueCSV(base_formats.CSV):
    """CSV. The export escapes cells that a spreadsheet would evaluate with an apostrophe; the import removes it."""

    def is_binary(self) -> bool:
        return True  # so that `decoded` receives the bytes of an upload

    def get_read_mode(self) -> str:
        return "rb"

    def create_dataset(self, in_stream: str | bytes, **kwargs: Any) -> tablib.Dataset:
        text = decoded(in_stream)
        _check_rows(_line_breaks(text.strip()))  # also counts line breaks within cells
        delimiter = separator(text)
        # tablib would fill up each row to the length of the head.
        known_columns(next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), []))
        try:
            dataset = checked(super().create_dataset(text, delimiter=delimiter, **kwargs))
        except tablib.exceptions.InvalidDimensions as error:
            raise ValueError("A row has more cells than the header.") from error
        return _with_cells(dataset, lambda cell: cell[1:] if _is_quoted(cell) else cell)

    def export_data(self, dataset: tablib.Dataset, **kwargs: Any) -> str:
        quoted = _with_cells(dataset, lambda cell: f"'{cell}" if _FORMULA.match(cell) else cell)
        return super().export_data(quoted, **kwargs)


def _is_quoted(cell: str) -> bool:
    return cell.startswith("'") and _FORMULA.match(cell) is not None


def _with_cells(dataset: tablib.Dataset, change: Callable[[str], str]) -> tablib.Dataset:
    rows = [[cell if cell is None else change(str(cell)) for cell in row] for row in dataset]
    return tablib.Dataset(*rows, headers=dataset.headers)


class CatalogueJSON(base_formats.JSON):
    """JSON: a list of objects. A missing key keeps the stored value."""

    def is_binary(self) -> bool:
        return True

    def get_read_mode(self) -> str:
        return "rb"

    def create_dataset(self, in_stream: str | bytes, **kwargs: Any) -> tablib.Dataset:
        text = decoded(in_stream)
        _check_rows(max(text.count("{"), text.count("[") - 1))  # objects; lists of tags
        # tablib would read the values of every object in the order of the first object's keys.
        objects = json.loads(text)
        if not isinstance(objects, list) or not all(isinstance(item, dict) for item in objects):
            raise ValueError("Give a list of objects, one per prompt variant.")
        headers = list(dict.fromkeys(key for item in objects for key in item))
        known_columns(headers)  # before each row gets a cell for each
        rows = [[item.get(header) for header in headers] for item in objects]
        return checked(tablib.Dataset(*rows, headers=headers))


FORMATS: dict[str, type[base_formats.TextFormat]] = {"csv": CatalogueCSV, "json": CatalogueJSON}


def format_of(path: Path) -> base_formats.TextFormat:
    """Return the format for the file's extension. Raises InvalidRequest."""
    try:
        return FORMATS[path.suffix.lower().removeprefix(".")](encoding="utf-8-sig")
    except KeyError:
        raise InvalidRequest(f"{path.name}: use a file that ends in .csv or .json.") from None
