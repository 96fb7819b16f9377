"""Faults of the local folder of images, as real components have them."""

from collections.abc import Iterable
from pathlib import Path

from generation.models import Image


def break_storage(root: Path, fault: str, images: Iterable[Image]) -> None:
    """Let the storage be "not mounted", or the files of these images "unreadable".

    A folder in the place of a file cannot be opened, by root neither.
    """
    if fault == "not mounted":
        (root / "images").rename(root / "elsewhere")
        return
    for name in {name for image in images for name in (image.file, image.master)}:
        (root / name).unlink()
        (root / name).mkdir()
