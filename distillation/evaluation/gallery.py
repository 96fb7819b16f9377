"""The sheets of an evaluation: pictures of teacher and student, of the same prompts and noise. Knows no measure.

A picture is shown at most SIDE pixels wide, so that a sheet stays small.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from distillation.evaluation import sheets
from distillation.evaluation.figures import Evaluation
from distillation.evaluation.pictures import Album
from distillation.evaluation.sheets import Row

SIDE = 160  # pixels
ROWS, SEEDS = 8, 4  # of a sheet
SPREAD, WORST = "sheet.webp", "worst.webp"


def draw(
    evaluation: Evaluation,
    student: Album,
    teacher: Album,
    right: tuple[Tensor, Tensor] | None,
    folder: Path,
) -> dict[str, str]:
    """Files by name: "sheet", of prompts spread evenly; "worst", of those that lost most, if any lost.

    right: of student and teacher, [P, S]: 0 or 1 where a detector judged.
    """
    count = len(evaluation.per_prompt)
    spread = [count * number // min(ROWS, count) for number in range(min(ROWS, count))]
    _sheet(folder / SPREAD, evaluation, student, teacher, right, spread)
    drawn = {"sheet": SPREAD}
    worst = [evaluation.per_prompt.index(prompt) for prompt in evaluation.losers[:ROWS]]
    (folder / WORST).unlink(missing_ok=True)
    if worst:
        _sheet(folder / WORST, evaluation, student, teacher, right, worst)
        drawn["worst"] = WORST
    return drawn


def _sheet(
    path: Path,
    evaluation: Evaluation,
    student: Album,
    teacher: Album,
    right: tuple[Tensor, Tensor] | None,
    chosen: Sequence[int],
) -> None:
    rows = []
    for number in chosen:
        sides = [album.read(number)[:SEEDS] for album in (teacher, student)]
        captions: list[str] = []
        wrong: set[int] = set()
        for name, verdict in (("teacher", 1), ("student", 0)):
            for seed in range(len(sides[0])):
                words = name if seed == 0 else ""
                if right is not None and float(right[verdict][number, seed]) == 0:
                    wrong.add(len(captions))
                    words = f"{words}, wrong" if words else "wrong"
                captions.append(words)
        title = evaluation.per_prompt[number].text
        both = _small(torch.cat(sides))
        rows.append(Row(title, both, tuple(captions), frozenset(wrong), len(sides[0])))
    sheets.write(path, rows)


def _small(pictures: Tensor) -> Tensor:
    height, width = pictures.shape[2:]
    if max(height, width) <= SIDE:
        return pictures
    size = (round(SIDE * height / max(height, width)), round(SIDE * width / max(height, width)))
    small = functional.interpolate(pictures.float(), size, mode="bilinear", antialias=True)
    return small.round().clamp(0, 255).to(torch.uint8)
