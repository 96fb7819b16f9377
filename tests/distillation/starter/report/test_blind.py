"""The sheet of the blind test has a photograph and a picture of each combination; the key is a separate file."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distillation.starter.photographs import Photographs
from distillation.starter.report import blind
from distillation.starter.words import TRAINED


def album(count: int) -> Photographs:
    """Return black photographs, 256 × 256."""
    images = torch.zeros(count, 3, 256, 256, dtype=torch.uint8)
    masks = torch.ones(count, 256, 256, dtype=torch.uint8)
    return Photographs(images, masks, TRAINED[:count], tuple(range(count)))


def test_the_key_lists_the_photographs(tmp_path: Path) -> None:
    pictures = torch.full((40, 3, 256, 256), 255, dtype=torch.uint8)  # white
    path = blind.write(tmp_path, album(40), pictures, TRAINED[:40])
    key = json.loads((tmp_path / blind.KEY).read_text())["photographs"]
    assert len(key) == blind.EACH
    pixels = np.asarray(Image.open(path).convert("L"), dtype=float)
    black = []
    height = pixels.shape[0] / (2 * blind.EACH / blind.ACROSS)
    width = pixels.shape[1] / blind.ACROSS
    for place in range(2 * blind.EACH):
        row, column = divmod(place, blind.ACROSS)
        middle = pixels[round((row + 0.4) * height), round((column + 0.5) * width)]
        if middle < 128:
            black.append(str(place + 1))
    assert black == key
    assert black != [str(place + 1) for place in range(blind.EACH)]


def test_too_few_combinations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="32 are needed"):
        blind.write(
            tmp_path, album(40), torch.zeros(4, 3, 256, 256, dtype=torch.uint8), TRAINED[:4]
        )
