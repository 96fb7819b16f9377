"""Set-up of .venv: as locked, only after a change, completely or not at all. Real uv, toy packages, no network."""

import ensurepip
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ("UV_", "PIP_", "TORCH", "BASE_PYTHON")


def make_wheel(folder: Path, name: str, version: str) -> None:
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", f"__version__ = {version!r}\n")
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


class Project:
    """A clone whose requirements are toys: torch, and tests that need one more package."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stamp = folder / ".venv" / "installed"
        self.wheels = folder / "wheels of the user"
        self.wheels.mkdir()
        bundled = Path(ensurepip.__file__).parent / "_bundled"
        for pip in bundled.glob("*.whl"):  # pip is installed into every new environment
            shutil.copy(pip, self.wheels)
        for version in ("1.0", "1.1"):
            make_wheel(self.wheels, "torch", version)
            make_wheel(self.wheels, "extra", version)
        for group in ("tests", "distillation/starter"):
            (folder / group).mkdir(parents=True)
        (folder / "distillation" / "starter" / "requirements.txt").write_text("")
        (folder / "tests" / "requirements.txt").write_text("extra\n")
        self.restore()
        (folder / "deploy" / "local").mkdir(parents=True)
        shutil.copy(ROOT / "deploy" / "local" / "setup.sh", folder / "deploy" / "local")

    def restore(self) -> None:
        (self.folder / "requirements.txt").write_text("torch>=1\n")
        (self.folder / "requirements.lock").write_text("extra==1.0\ntorch==1.0\n")

    def set_up(self, *groups: str, **variables: str) -> subprocess.CompletedProcess[str]:
        kept = {n: v for n, v in os.environ.items() if not n.startswith(SETTINGS)}
        environment = {
            **kept,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # contains uv
            "BASE_PYTHON": sys.executable,
            "UV_NO_INDEX": "1",
            "UV_FIND_LINKS": str(self.wheels),
            **variables,
        }
        return subprocess.run(
            ["sh", "deploy/local/setup.sh", *groups],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
        )

    def version(self, package: str) -> str:
        # Not by importing it: two versions of a toy have the same time and size, so stale bytecode would be used.
        code = f"from importlib.metadata import version; print(version('{package}'))"
        python = self.folder / ".venv" / "bin" / "python"
        done = subprocess.run([python, "-c", code], capture_output=True, text=True)
        return done.stdout.strip()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("project"))


@pytest.fixture
def project(made: Project) -> Iterator[Project]:
    made.restore()
    done = made.set_up()
    assert done.returncode == 0, done.stderr
    yield made


def test_the_locked_versions_are_installed(project: Project) -> None:
    assert project.version("torch") == "1.0"


def test_nothing_is_done_when_nothing_changed(project: Project) -> None:
    stamp = project.stamp.stat()
    done = project.set_up()
    assert (done.returncode, done.stderr) == (0, "")
    assert project.stamp.stat().st_mtime_ns == stamp.st_mtime_ns


def test_a_changed_lock_is_installed(project: Project) -> None:
    (project.folder / "requirements.lock").write_text("extra==1.0\ntorch==1.1\n")
    assert "Installing requirements.txt" in project.set_up().stderr
    assert project.version("torch") == "1.1"


@pytest.mark.slow
def test_packages_of_the_tests_are_added_and_kept_up_to_date(project: Project) -> None:
    assert "tests/requirements.txt" in project.set_up("tests").stderr
    assert project.version("extra") == "1.0"
    (project.folder / "requirements.lock").write_text("extra==1.1\ntorch==1.0\n")
    project.set_up()
    assert project.version("extra") == "1.1"


def test_a_failed_installation_shows_the_reason_and_is_repeated(project: Project) -> None:
    (project.folder / "requirements.txt").write_text("no-such-package\n")
    done = project.set_up()
    assert done.returncode == 1
    assert "no-such-package" in done.stderr
    assert "repeat the command" in done.stderr
    assert not project.stamp.exists()
    project.restore()
    assert project.set_up().returncode == 0
    assert project.stamp.exists()


def test_a_broken_environment_is_created_again(project: Project) -> None:
    python = project.folder / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nowhere/python3")
    assert project.set_up().returncode == 0
    assert project.version("torch") == "1.0"


@pytest.mark.slow
def test_an_incomplete_environment_is_created_again(project: Project) -> None:
    (pip,) = (project.folder / ".venv").glob("lib/python*/site-packages/pip")
    shutil.rmtree(pip)
    project.stamp.unlink()
    assert project.set_up().returncode == 0
    assert pip.exists()


@pytest.mark.slow
def test_torch_comes_from_the_requested_index_and_is_kept(project: Project) -> None:
    index = project.folder / "index" / "torch"
    index.mkdir(parents=True, exist_ok=True)
    make_wheel(index, "torch", "1.0+cpu")
    links = "".join(f'<a href="{wheel.name}">{wheel.name}</a>' for wheel in index.glob("*.whl"))
    (index / "index.html").write_text(f"<!DOCTYPE html><html><body>{links}</body></html>")
    locked = f"extra==1.0\ntorch==1.0 --hash=sha256:{'0' * 64}\n"  # of PyPI's build
    (project.folder / "requirements.lock").write_text(locked)
    from_index = {"TORCH": index.parent.as_uri(), "UV_NO_INDEX": "", "UV_FIND_LINKS": ""}
    done = project.set_up(**from_index)
    assert done.returncode == 0, done.stderr
    assert project.version("torch") == "1.0+cpu"
    (project.folder / "requirements.txt").write_text("torch>=0.9\n")
    assert project.set_up().returncode == 0
    assert project.version("torch") == "1.0+cpu"


def test_a_package_with_another_hash_than_the_locked_one_is_not_installed(project: Project) -> None:
    wrong = f"extra==1.1 --hash=sha256:{'0' * 64}\ntorch==1.0\n"
    (project.folder / "requirements.lock").write_text(wrong)
    done = project.set_up("tests", UV_NO_CACHE="1")
    assert done.returncode == 1 and "Hash mismatch" in done.stderr
    assert project.version("extra") != "1.1" and not project.stamp.exists()


@pytest.mark.slow
def test_packages_come_from_the_sources_in_pips_variables(project: Project) -> None:
    locked = f"extra==1.0\ntorch==1.1 --hash=sha256:{'0' * 64}\n"  # that source has another build
    (project.folder / "requirements.lock").write_text(locked)
    done = project.set_up(UV_FIND_LINKS="", PIP_FIND_LINKS=project.wheels.as_uri())
    assert done.returncode == 0, done.stderr
    assert project.version("torch") == "1.1"


def test_an_unknown_build_of_torch_is_refused(project: Project) -> None:
    done = project.set_up(TORCH="gpu")
    assert done.returncode == 1
    assert "TORCH=gpu is unknown. Use TORCH=cpu" in done.stderr


def requirements(file: str) -> list[Requirement]:
    lines = (line.split("#")[0].strip(" \\") for line in (ROOT / file).read_text().splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("--hash")]


@pytest.mark.parametrize(
    "file",
    [
        "requirements.txt",
        "distillation/starter/requirements.txt",
        "tests/requirements.txt",
        "deploy/requirements-s3.txt",
        "deploy/requirements-mcp.txt",
        "deploy/requirements-otel.txt",
    ],
)
def test_every_requirement_is_locked_within_its_range(file: str) -> None:
    locked = {entry.name: entry.specifier for entry in requirements("requirements.lock")}
    for wanted in requirements(file):
        (version,) = locked[wanted.name.lower()]
        assert wanted.specifier.contains(version.version), f"{wanted}: run `make lock`"
