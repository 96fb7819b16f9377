"""A blind test: photographs and a student's pictures of the same prompts, shuffled on a sheet, with the key apart."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Generator, Tensor

from distillation.evaluation.report import sheets
from distillation.evaluation.report.sheets import Row
from distillation.image_metrics.perceptual_distance import fitted
from distillation.starter.photographs import Photographs
from distillation.starter.words import Combination

EACH = 32  # photographs, and as many pictures
ACROSS = 8
SIDE = 128  # pixels of a picture on the sheet: all are scaled down to it
SHEET, KEY = "blind.webp", "blind.json"
SEED = 32


def write(
    folder: Path, photographs: Photographs, made: Tensor, asked: Sequence[Combination]
) -> Path:
    """Write the sheet and its key; return the sheet. made: uint8 [N, 3, height, width] of the combinations `asked`.

    Each combination is shown once by a photograph and once by a picture. The order depends on SEED alone.
    Raises ValueError for fewer than EACH combinations that have both.
    """
    of_picture = {combination: row for row, combination in reversed(list(enumerate(asked)))}
    of_photograph = {
        combination: row for row, combination in reversed(list(enumerate(photographs.combinations)))
    }
    both = sorted(of_picture.keys() & of_photograph.keys())
    if len(both) < EACH:
        raise ValueError(
            f"{len(both)} combinations have a photograph and a picture; {EACH} are needed."
        )
    generator = Generator().manual_seed(SEED)
    chosen = [both[row] for row in torch.randperm(len(both), generator=generator)[:EACH]]
    images = torch.cat(
        [
            fitted(photographs.images[[of_photograph[one] for one in chosen]], SIDE),
            fitted(made[[of_picture[one] for one in chosen]], SIDE),
        ]
    )
    order = torch.randperm(2 * EACH, generator=generator)
    numbers = [str(place + 1) for place in range(2 * EACH)]
    rows = [
        Row("", images[order[start : start + ACROSS]], tuple(numbers[start : start + ACROSS]))
        for start in range(0, 2 * EACH, ACROSS)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    sheets.write(folder / SHEET, rows)
    photographed = [
        number for number, row in zip(numbers, order.tolist(), strict=True) if row < EACH
    ]
    (folder / KEY).write_text(json.dumps({"photographs": photographed}) + "\n", "utf-8")
    return folder / SHEET
