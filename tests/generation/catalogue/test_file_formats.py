"""Limits of imported files, which are checked before a file is parsed."""

import tracemalloc

import pytest

from generation.catalogue import file_formats
from generation.catalogue.file_formats import MAX_BYTES, MAX_ROWS, CatalogueCSV, CatalogueJSON


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r"])
def test_a_csv_file_has_at_most_so_many_rows(monkeypatch, line_break):
    monkeypatch.setattr(file_formats, "MAX_ROWS", 3)
    for end in ("", line_break, 2 * line_break):
        rows = line_break.join(["text", "a", "b", "c"]) + end
        assert len(CatalogueCSV().create_dataset(rows.encode())) == 3
        with pytest.raises(ValueError, match="too large"):
            CatalogueCSV().create_dataset((rows.rstrip() + line_break + "d" + end).encode())


def test_a_json_file_has_at_most_so_many_rows(monkeypatch):
    monkeypatch.setattr(file_formats, "MAX_ROWS", 3)
    row = '{"text": "a", "tags": ["b"]}'
    assert len(CatalogueJSON().create_dataset(f"[{row}, {row}, {row}]")) == 3
    with pytest.raises(ValueError, match="too large"):
        CatalogueJSON().create_dataset(f"[{row}, {row}, {row}, {row}]")


HUGE = {
    "many lines": (CatalogueCSV, b"text\n" + b"a\n" * (MAX_BYTES // 2 - 5)),
    "many carriage returns": (CatalogueCSV, b"text\r" + b"a\r" * (MAX_BYTES // 2 - 5)),
    "many bytes": (CatalogueCSV, b"text\n" + b"a" * MAX_BYTES),
    "many columns": (CatalogueCSV, b"text" + b",a" * 5000 + b"\nb" * (MAX_ROWS - 1)),
    "many bytes of JSON": (CatalogueJSON, b"[" + b" " * MAX_BYTES + b"]"),
    "many objects": (CatalogueJSON, b"[" + b"{}," * (MAX_ROWS + 1) + b"{}]"),
    "many lists": (CatalogueJSON, b"[" + b"[]," * (MAX_BYTES // 3 - 2) + b"[]]"),
    "many keys": (
        CatalogueJSON,
        b"[" + b",".join(b'{"k%d": ""}' % number for number in range(20_000)) + b"]",
    ),
}


@pytest.mark.parametrize("name", HUGE)
def test_a_huge_file_is_refused_with_little_memory(name):
    file_format, content = HUGE[name]
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"too large|more than 100 columns"):
            file_format().create_dataset(content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20
