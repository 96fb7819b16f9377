"""The sheets of an evaluation: pictures of teacher and student, of the same prompts and noise. Knows no measure.

Pictures are shown small (`sheets.small`), so that a sheet stays small.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from distillation.evaluation.figures import Evaluation
from distillation.evaluation.pictures import Album
from distillation.evaluation.report import sheets
from distillation.evaluation.report.sheets import Row

ROWS, SEEDS = 8, 4  # of a sheet
GOLDEN = (5**0.5 - 1) / 2
SPREAD, WORST = "sheet.webp", "worst.webp"


def draw(
    evaluation: Evaluation,
    student: Album,
    teacher: Album,
    right: tuple[Tensor, Tensor] | None,
    folder: Path,
) -> dict[str, str]:
    """Files by name: "sheet", of `spread` prompts; "worst", of those that lost most, if any lost.

    right: of student and teacher, [P, S]: 0 or 1 where a detector judged.
    """
    chosen = spread(len(evaluation.per_prompt))
    _sheet(folder / SPREAD, evaluation, student, teacher, right, chosen)
    drawn = {"sheet": SPREAD}
    worst = [evaluation.per_prompt.index(prompt) for prompt in evaluation.losers[:ROWS]]
    (folder / WORST).unlink(missing_ok=True)
    if worst:
        _sheet(folder / WORST, evaluation, student, teacher, right, worst)
        drawn["worst"] = WORST
    return drawn


def compare(path: Path, albums: Mapping[str, Album], texts: Sequence[str]) -> None:
    """A sheet of several releases, by name, in one row for each prompt. The albums have the same prompts and seeds."""
    rows = []
    for number, text in enumerate(texts):
        sides = [album.read(number) for album in albums.values()]
        captions = [name if seed == 0 else "" for name in albums for seed in range(len(sides[0]))]
        rows.append(Row(text, sheets.small(torch.cat(sides)), tuple(captions)))
    sheets.write(path, rows)


def spread(count: int) -> list[int]:
    """ROWS different ones of `count` prompts, or all, ascending, evenly but without a step that repeats.

    A sorted catalogue repeats itself: every 32nd of 256 prompts is a clay ball. Multiples of the golden ratio keep in
    step with nothing.
    """
    found: set[int] = set()
    number = 0
    while len(found) < min(ROWS, count):
        found.add(int(count * (number * GOLDEN % 1)))
        number += 1
    return sorted(found)


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
        both = sheets.small(torch.cat(sides))
        rows.append(Row(title, both, tuple(captions), frozenset(wrong), len(sides[0])))
    sheets.write(path, rows)
