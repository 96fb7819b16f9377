"""Atomic writes: a file or folder is replaced completely, or nothing changes."""

import stat
from pathlib import Path

import pytest

from distillation.resumable import atomic


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole_and_readable_by_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old and longer")

    def make(new: Path) -> None:
        new.touch(mode=0o600)
        new.write_text("new")
        assert path.read_text() == "old and longer"  # until the new one is whole

    atomic.make_file(path, make)
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert names(tmp_path) == ["file"]


def test_text_and_bytes_are_kept_as_they_are(tmp_path: Path) -> None:
    atomic.write_file(tmp_path / "text", "ä\r\n")
    atomic.write_file(tmp_path / "bytes", b"\x00\r\n")
    assert (tmp_path / "text").read_bytes() == "ä\r\n".encode()
    assert (tmp_path / "bytes").read_bytes() == b"\x00\r\n"


def test_a_folder_is_replaced_whole_with_nothing_of_the_old(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "folder"
    for content in ("first", "second"):

        def make(new: Path, content: str = content) -> str:
            new.mkdir()
            (new / content).touch(mode=0o600)
            return content

        assert atomic.make_folder(target, make) == content
        assert names(target) == [content]
    assert stat.S_IMODE((target / "second").stat().st_mode) == 0o644
    assert names(target.parent) == ["folder"]


def test_a_folder_that_could_not_be_made_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "kept").touch()

    def fail(new: Path) -> None:
        new.mkdir()
        (new / "half").touch()
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        atomic.make_folder(target, fail)
    assert names(target) == ["kept"]
    assert names(tmp_path) == ["folder"]


def test_a_file_that_could_not_be_made_leaves_the_old_one_and_no_partial_file(
    tmp_path: Path,
) -> None:
    """On a full disk partial files would take the space that the next try needs."""
    path = tmp_path / "file"
    path.write_text("kept")

    def fail(new: Path) -> None:
        new.write_text("half")
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        atomic.make_file(path, fail)
    assert path.read_text() == "kept"
    assert names(tmp_path) == ["file"]
