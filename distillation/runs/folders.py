"""Where runs keep what they make. Knows names of folders, not what is in them; needs no tensor library."""

from pathlib import Path

from django.conf import settings

from distillation.models import Run


def root() -> Path:
    """Of the stages of all runs, and what they share."""
    return Path(settings.DATA_DIR) / "distillation"


def stage(run: Run, name: str) -> Path | None:
    """Of the stage, if it has begun and was not cleared away."""
    folder = run.folders.get(name)
    found = root() / folder if folder else None
    return found if found is not None and found.is_dir() else None


def report(release: str) -> Path:
    """What is kept of the evaluation of the release of this name, whether or not it is there."""
    return root() / "reports" / release
