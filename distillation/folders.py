"""Paths of the folders of runs. Imports no torch."""

import shutil
from pathlib import Path

from django.conf import settings

from distillation.models import Run


def root() -> Path:
    """Return the folder of the stages of all runs and their shared data."""
    return Path(settings.DATA_DIR) / "distillation"


def free_gib() -> float:
    """Return the free space for the folders of runs."""
    root().mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(root()).free / 2**30


def stage(run: Run, name: str) -> Path | None:
    """Return the folder of the stage, None before it started or after it was deleted."""
    folder = run.folders.get(name)
    found = root() / folder if folder else None
    return found if found is not None and found.is_dir() else None


def report(release: str) -> Path:
    """Return the folder for the evaluation report of the release of this name. It may not exist."""
    return root() / "reports" / release
