from pathlib import Path

import pytest
import torch
from PIL import Image

from distillation.starter import sheets
from distillation.starter.sheets import GAP, Row


def pictures(*values: int) -> torch.Tensor:
    return torch.stack([torch.full((3, 32, 32), value, dtype=torch.uint8) for value in values])


def test_pictures_lie_side_by_side_under_their_title(tmp_path: Path):
    sheets.write(tmp_path / "sheet.webp", [Row("two", pictures(0, 128), ("dark\nfar", "grey"))])
    with Image.open(tmp_path / "sheet.webp") as sheet:
        assert sheet.width == 2 * 32 + 3 * GAP
        top = sheet.height - (2 * (13 + GAP) + GAP) - 16  # the middle of the pictures
        dark, grey = (sheet.getpixel((GAP + 16 + n * (32 + GAP), top)) for n in range(2))
        assert max(dark) < 10 and all(abs(value - 128) < 8 for value in grey)


def test_a_row_without_pictures_or_with_too_few_captions_is_refused(tmp_path: Path):
    path = tmp_path / "sheet.webp"
    with pytest.raises(ValueError, match="at least one"):
        sheets.write(path, [Row("none", pictures(1)[:0])])
    with pytest.raises(ValueError, match="caption for each"):
        sheets.write(path, [Row("two", pictures(1, 2), ("one",))])
    assert not path.exists()
