"""The blind test shows each combination once by a photograph and once by a picture, and keeps the key apart."""

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
    """Return black photographs."""
    images = torch.zeros(count, 3, 256, 256, dtype=torch.uint8)
    masks = torch.ones(count, 256, 256, dtype=torch.uint8)
    return Photographs(images, masks, TRAINED[:count], tuple(range(count)))


def test_the_key_tells_photographs_from_pictures(tmp_path: Path) -> None:
    made = torch.full((40, 3, 256, 256), 255, dtype=torch.uint8)
    path = blind.write(tmp_path, album(40), made, TRAINED[:40])
    photographed = json.loads((tmp_path / blind.KEY).read_text())["photographs"]
    assert len(photographed) == blind.EACH
    pixels = np.asarray(Image.open(path).convert("L"), dtype=float)
    seen = []
    height = pixels.shape[0] / (2 * blind.EACH / blind.ACROSS)
    width = pixels.shape[1] / blind.ACROSS
    for place in range(2 * blind.EACH):
        row, column = divmod(place, blind.ACROSS)
        middle = pixels[round((row + 0.4) * height), round((column + 0.5) * width)]
        if middle < 128:
            seen.append(str(place + 1))
    assert seen == photographed
    assert seen != [str(place + 1) for place in range(blind.EACH)]


def test_too_few_combinations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="32 are needed"):
        blind.write(
            tmp_path, album(40), torch.zeros(4, 3, 256, 256, dtype=torch.uint8), TRAINED[:4]
        )
