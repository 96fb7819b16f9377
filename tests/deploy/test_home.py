"""The folder of a local stack: one launcher at a time, permanent secrets, socket paths that are short enough."""

import json
import stat
from pathlib import Path

import pytest

from deploy.local import __main__ as launcher
from deploy.local.errors import AlreadyRunning
from deploy.local.home import MAX_SOCKET_PATH, Home, read_json, write_json


def test_two_launchers_cannot_use_one_folder(tmp_path: Path) -> None:
    first, second = Home(tmp_path / "home"), Home(tmp_path / "home")
    first.lock()
    with pytest.raises(AlreadyRunning, match="RETORT_HOME"):
        second.lock()
    first.unlock()
    second.lock()
    second.unlock()


def test_an_unusable_folder_is_reported_in_one_sentence(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("RETORT_HOME", str(tmp_path))
    (tmp_path / "launcher.lock").mkdir()
    assert launcher.main(["manage", "check"]) == 1
    (message,) = capsys.readouterr().err.strip().splitlines()
    assert "Is a directory" in message and str(tmp_path) in message


def test_secrets_are_created_once_and_readable_by_the_owner_only(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    made = home.secrets()
    assert Home(tmp_path / "home").secrets() == made
    assert stat.S_IMODE((home.folder / "secrets.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(home.folder.stat().st_mode) == 0o700


def test_a_removed_secret_is_created_again_and_the_others_are_kept(tmp_path: Path) -> None:
    home = Home(tmp_path)
    made = home.secrets()
    kept = {name: value for name, value in made.items() if name != "LOCAL_API_KEY"}
    write_json(tmp_path / "secrets.json", kept)
    again = home.secrets()
    assert again["LOCAL_API_KEY"] != made["LOCAL_API_KEY"]
    assert again["SECRET_KEY"] == made["SECRET_KEY"]


def test_a_truncated_file_reads_as_empty(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"base_url": "http://127.0.0.1:1"})[:-5])
    assert read_json(tmp_path / "run.json") == {}


def test_sockets_of_a_deep_folder_are_placed_in_a_short_private_one(tmp_path: Path) -> None:
    deep = Home(tmp_path / ("d" * 120))
    short = deep.sockets()
    assert len(str(short)) < MAX_SOCKET_PATH
    assert stat.S_IMODE(short.stat().st_mode) == 0o700
    assert deep.sockets() == short
    short.rmdir()
