"""Temporary folders: removed at the end, or after their process was killed, and never while they are in use."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from generation.engine import temporary_folders

HOLDER = """
import sys, time
from pathlib import Path
from generation.engine import temporary_folders
with temporary_folders.create(Path(sys.argv[1])) as folder:
    (folder / "copy").mkdir()
    print(folder, flush=True)
    time.sleep(600)
"""


def make_and_leave(root: Path) -> None:
    with temporary_folders.create(root):
        pass


def age(folder: Path) -> None:
    os.utime(folder, (0, 0))


def test_a_folder_is_removed_at_its_end_and_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), temporary_folders.create(tmp_path / "new") as folder:
        (folder / "file").touch()
        raise KeyError
    assert not list((tmp_path / "new").iterdir())


def test_the_folder_of_a_process_is_removed_only_after_it_was_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            folder = Path(holder.stdout.readline().strip())
            age(folder)
            make_and_leave(tmp_path)
            assert folder.is_dir()
        finally:
            holder.send_signal(signal.SIGKILL)
    age(folder)
    make_and_leave(tmp_path)
    assert not folder.exists()


def test_a_new_folder_whose_process_has_not_locked_it_yet_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / f"{temporary_folders.PREFIX}new"
    folder.mkdir()
    (folder / temporary_folders.LOCK).touch()
    make_and_leave(tmp_path)
    assert folder.is_dir()


def test_other_hidden_folders_are_kept(tmp_path: Path) -> None:
    folders = [tmp_path / ".backup-of-mine", tmp_path / f"{temporary_folders.PREFIX}without-lock"]
    for folder in folders:
        folder.mkdir()
        (folder / "precious").touch()
        age(folder)
    make_and_leave(tmp_path)
    assert all((folder / "precious").is_file() for folder in folders)
