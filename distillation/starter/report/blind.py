"""A blind test: a shuffled sheet of photographs and a student's pictures of the same prompts, and a key file."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Generator, Tensor

from distillation.detector.network import resized
from distillation.evaluation.report import sheets
from distillation.evaluation.report.sheets import Row
from distillation.starter.photographs import Photographs
from distillation.starter.words import Combination

EACH = 32  # photographs, and the same number of pictures
ACROSS = 8  # per row
SIDE = 128  # pixels per side on the sheet
SHEET, KEY = "blind.webp", "blind.json"
SEED = 32


def write(
    folder: Path,
    photographs: Photographs,
    pictures: Tensor,
    combinations: Sequence[Combination],
) -> Path:
    """Write the sheet and its key into `folder`; return the path of the sheet.

    pictures: uint8 [N, 3, height, width], of the N combinations. The sheet shows a photograph and a picture of each of
    EACH combinations, in an order that depends only on SEED. Raises ValueError if fewer combinations have both.
    """
    picture_rows, photograph_rows = _rows(combinations), _rows(photographs.combinations)
    common = sorted(picture_rows.keys() & photograph_rows.keys())
    if len(common) < EACH:
        raise ValueError(
            f"{len(common)} combinations have a photograph and a picture; {EACH} are needed."
        )
    generator = Generator().manual_seed(SEED)
    chosen = [common[row] for row in torch.randperm(len(common), generator=generator)[:EACH]]
    images = torch.cat(
        [
            resized(photographs.images[[photograph_rows[one] for one in chosen]], SIDE),
            resized(pictures[[picture_rows[one] for one in chosen]], SIDE),
        ]
    )
    order = torch.randperm(2 * EACH, generator=generator)
    numbers = [str(number) for number in range(1, 2 * EACH + 1)]
    rows = [
        Row("", images[order[start : start + ACROSS]], tuple(numbers[start : start + ACROSS]))
        for start in range(0, 2 * EACH, ACROSS)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    sheets.write(folder / SHEET, rows)
    key = [number for number, row in zip(numbers, order.tolist(), strict=True) if row < EACH]
    (folder / KEY).write_text(json.dumps({"photographs": key}) + "\n", "utf-8")
    return folder / SHEET


def _rows(combinations: Sequence[Combination]) -> dict[Combination, int]:
    """Return the first index of each combination."""
    return {combination: row for row, combination in reversed(list(enumerate(combinations)))}
