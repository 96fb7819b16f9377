"""The virtual environment: installed once, again when the requirements change, never half."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local import setup


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project without requirements, so that no network is asked. One for all: making .venv takes seconds."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "requirements.txt").write_text("")
    (folder / "tests").mkdir()
    (folder / "tests" / "requirements.txt").write_text("")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "PROJECT", folder)
        patch.setattr(setup, "VENV", folder / ".venv")
        patch.setattr(setup, "PYTHON", folder / ".venv" / "bin" / "python")
        patch.setattr(setup, "STAMP", folder / ".venv" / "installed.json")
        yield folder


def test_nothing_is_called_when_the_requirements_did_not_change(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    setup.install(["project"])
    assert "Installing requirements.txt" in capfd.readouterr().err
    stamp = setup.STAMP.stat()
    setup.install(["project"])
    assert capfd.readouterr().err == ""
    assert setup.STAMP.stat().st_mtime_ns == stamp.st_mtime_ns

    (project / "requirements.txt").write_text("# changed\n")
    setup.install(["project"])
    assert "Installing requirements.txt" in capfd.readouterr().err
    setup.install(["project", "tests"])
    assert "tests/requirements.txt" in capfd.readouterr().err
    assert set(json.loads(setup.STAMP.read_text())) == {"project", "tests", "torch"}


def test_a_failed_installation_shows_what_pip_says_and_is_repeated(project: Path) -> None:
    (project / "requirements.txt").write_text("./no-such-folder\n")
    with pytest.raises(setup.SetupFailed, match="no-such-folder"):
        setup.install(["project"])
    assert not setup.STAMP.exists()
    (project / "requirements.txt").write_text("")
    setup.install(["project"])
    assert setup.STAMP.exists()


def test_a_broken_environment_is_made_again(project: Path) -> None:
    setup.install(["project"])
    (project / ".venv" / "bin" / "python").unlink()
    (project / ".venv" / "bin" / "python").symlink_to("/nowhere/python3")
    setup.install(["project"])
    assert (project / ".venv" / "bin" / "python").resolve() == Path(sys.executable).resolve()


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("Collecting torch>=2.9 (from -r requirements.txt (line 24))\n", "looking for torch"),
        (
            "  Downloading https://x/torch-2.9.0-cp311.whl (888.1 MB)\n",
            "downloading torch-2.9.0-cp311.whl (888.1 MB)",
        ),
        ("Installing collected packages: a, b, c\n", "unpacking 3 packages"),
        ("Requirement already satisfied: pip\n", ""),
    ],
)
def test_what_pip_is_at_is_said_in_few_words(line: str, hint: str) -> None:
    assert setup.describe(line) == hint
