"""Labelled folders and versions at toy size: red and green squares, drawn, not photographed."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from distillation.detector import judge, labels, network, segmentation, version
from distillation.detector.judge import Judge
from distillation.detector.labels import Row
from distillation.detector.network import Detector, DetectorConfig
from distillation.detector.segmentation import SegmentationConfig, UNet

SIZE = 32
GROUPS = {"colour": ("red", "green"), "place": ("low", "high")}
MASKS = SegmentationConfig(image_size=SIZE, reduction=2, widths=(4, 8, 8), smallest=0.05)


def square(number: int, *, side: int = 12) -> tuple[np.ndarray, np.ndarray, frozenset[str]]:
    """Return a picture [32, 32, 3], its mask of 0 and 255, and the bits that it shows."""
    random = np.random.default_rng(number)
    colour, place = number % 2, number // 2 % 2
    picture = random.integers(60, 120, (SIZE, SIZE, 3)).astype(np.uint8)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    top, left = (3, 17)[1 - place] + int(random.integers(0, 2)), int(random.integers(4, 15))
    mask[top : top + side, left : left + side] = 255
    picture[mask > 0, colour] = 235
    return picture, mask, frozenset({("red", "green")[colour], ("low", "high")[place]})


def make_labelled(folder: Path, count: int = 60, *, first: int = 0, defect: str = "") -> Path:
    """Write a labelled folder. defect: of one more picture, red but tagged green."""
    rows = []
    for number in range(first, first + count):
        picture, mask, present = square(number)
        for name, pixels in ((f"{number}.png", picture), (f"mask-{number}.png", mask)):
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / name)
        rows.append(
            Row(f"{number}.png", 0, present, frozenset(), frozenset(), f"mask-{number}.png")
        )
    if defect:
        Image.fromarray(square(first)[0]).save(folder / "bad.png")
        shown = frozenset({"green", "low"})
        rows.append(Row("bad.png", 0, shown, frozenset(), frozenset({"green"}), defect=defect))
    labels.write(folder, rows, GROUPS)
    return folder


def make_version(
    folder: Path,
    *,
    name: str = "toy",
    bits: tuple[str, ...] = ("red", "green", "blue", "sharp"),
    groups: tuple[int, ...] = (3, 1),
    required: tuple[str, ...] = ("sharp",),
    margin: float = 0.0,
    with_mask: bool = False,
) -> Path:
    """Write an untrained version."""
    torch.manual_seed(0)
    config = DetectorConfig(bits, groups, image_size=SIZE, widths=(4, 8), depths=(0, 1))
    network.save(Detector(config), folder)
    if with_mask:
        segmentation.save(UNet(MASKS), folder / version.SEGMENTATION)
        bits, groups = (*bits, *segmentation.BITS), (*groups, 1, 1)
    version.write(
        folder,
        name=name,
        bits=bits,
        groups=groups,
        required=required,
        image_size=SIZE,
        margin=margin,
        figures={"seconds": 1.5},
    )
    return folder


class FixedJudge(Judge):
    """A judge that returns given probabilities instead of those of its networks."""

    def __init__(self, folder: Path, given: list[list[float]]) -> None:
        loaded = judge.load(folder)
        super().__init__(
            loaded.version, loaded.classifier, quality=loaded.quality, unet=loaded.unet
        )
        self._given = torch.tensor(given)

    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        return self._given[: len(images)]
