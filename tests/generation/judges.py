"""A judge for tests: an image passes if its mean brightness is above the number in its variant's tag."""

from collections.abc import Collection, Sequence
from typing import Any

from generation.jobs.quality_control import Finding
from generation.models import Release

NAME = "brightness"


def by_brightness(release: Release) -> "Brightness":
    return Brightness()


def none(release: Release) -> None:
    """Return no judge, as when no detector is active."""


def broken(release: Release) -> Any:
    raise OSError("the detector's folder is gone")


class Brightness:
    def __call__(self, pixels: Sequence[Any], tags: Sequence[Collection[str]]) -> list[Finding]:
        found = []
        for picture, row in zip(pixels, tags, strict=True):
            score, limit = float(picture.mean()), float(next(iter(row)))
            failing = () if score > limit else ("bright",)
            found.append(Finding(not failing, failing, score / 255, NAME))
        return found
