"""The code of the previous release, from the repository's history."""

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# The commit of the previous release: change it with each release.
RELEASE_BEFORE = "631329a1041990b6805b70655f7ffce3df06e7f1"


def extract(folder: Path, *, without: tuple[str, ...] = ()) -> Path:
    """Write its files into the folder and return that. without: omitted folders. Skip the test without a history."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    paths = [".", *(f":!{path}" for path in without)]
    found = subprocess.run(
        ["git", "archive", RELEASE_BEFORE, "--", *paths], cwd=ROOT, capture_output=True
    )
    if found.returncode:
        pytest.skip("the commit of the release before is not in this clone")
    with tarfile.open(fileobj=io.BytesIO(found.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder
