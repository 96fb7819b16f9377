"""The three sheets of the report: what a person looks at to judge the teacher. Knows no measure."""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from distillation.detector.network import Detector
from distillation.evaluation.report import sheets
from distillation.evaluation.report.sheets import Row
from distillation.starter.captions import captions
from distillation.starter.photographs import Photographs
from distillation.starter.report import measuring
from distillation.starter.report.measuring import BitVerdict
from distillation.starter.report.pictures import Studio
from distillation.starter.words import (
    ATTRIBUTES,
    COLOURS,
    GROUNDS,
    HELD_OUT,
    MATERIALS,
    OBJECTS,
    TRAINED,
    Combination,
)

SHEET_SEEDS, SIDE_BY_SIDE = 0, 4_000_000
ACROSS = 8
MISTAKES = 2 * ACROSS


def sheet_combinations() -> list[Combination]:
    """One of each object, in every colour, material and ground; the last two held out."""
    chosen = []
    for number, word in enumerate(OBJECTS):
        pool = sorted(HELD_OUT) if number >= len(OBJECTS) - 2 else TRAINED
        wanted = (COLOURS[number], MATERIALS[number % 4], GROUNDS[number % 3])
        same_object = [combination for combination in pool if combination.object == word]
        # Of equals the first; a colour tells more than a ground.
        chosen.append(
            max(
                same_object,
                key=lambda c: (
                    4 * (c.colour == wanted[0])
                    + 2 * (c.material == wanted[1])
                    + (c.ground == wanted[2])
                ),
            )
        )
    return chosen


def contact_sheet(
    path: Path, studio: Studio, detector: Detector, *, size: int, guidance_scale: float
) -> None:
    """A row for each of `size` prompts, with as many seeds, the same in all rows; nothing was chosen."""
    chosen = sheet_combinations()[:size]
    seeds = list(range(SHEET_SEEDS, SHEET_SEEDS + size))
    pictures = studio.make(
        [captions(combination)[0] for combination in chosen for _ in seeds],
        seeds * len(chosen),
        guidance_scale=guidance_scale,
        title="contact sheet",
    )
    rows = []
    for combination, row in zip(chosen, pictures.split(size), strict=True):
        right = measuring.by_detector(detector, row, [combination] * size).all_four
        origin = ", held out" if combination in HELD_OUT else ""
        rows.append(
            Row(f"{captions(combination)[0]}{origin} ({right.count} of {right.total} right)", row)
        )
    sheets.write(path, rows)


def side_by_side(
    path: Path,
    studio: Studio,
    photographs: Mapping[str, Photographs],
    rebuilt: Mapping[str, Tensor],
    *,
    guidance_scale: float,
) -> None:
    """Of each split the first photographs, their reconstructions, and pictures of the same combinations."""
    rows = []
    for name, split in photographs.items():
        first = split.combinations[:ACROSS]
        made = studio.make(
            [captions(combination)[0] for combination in first],
            list(range(SIDE_BY_SIDE, SIDE_BY_SIDE + len(first))),
            guidance_scale=guidance_scale,
            title=f"side by side, {name}",
        )
        words = tuple(f"{c.colour} {c.material}\n{c.object}, {c.ground}" for c in first)
        rows += [
            Row(f"{name}: photographs", split.images[:ACROSS]),
            Row("their reconstructions by the VAE", rebuilt[name][:ACROSS]),
            Row("generated, of the same combinations", made, words),
        ]
    sheets.write(path, rows)


def mistakes(path: Path, made: Mapping[str, Tensor], verdicts: Mapping[str, BitVerdict]) -> None:
    """The first pictures of each part that are not right in all four attributes, with what was seen instead."""
    rows = []
    for name, pictures in made.items():
        verdict = verdicts[name]
        wrong = (~verdict.right).nonzero().flatten().tolist()[:MISTAKES]
        title = (
            f"{name}: the first {len(wrong)} that are wrong, what was asked for and what was seen"
        )
        for start in range(0, len(wrong), ACROSS):
            chosen = wrong[start : start + ACROSS]
            words = tuple(_difference(verdict, row) for row in chosen)
            rows.append(Row("" if start else title, pictures[torch.tensor(chosen)], words))
    path.unlink(missing_ok=True)
    if rows:
        sheets.write(path, rows, text_size=11)


def _difference(verdict: BitVerdict, row: int) -> str:
    """Three lines at most: "red glass vase, slab", then what was seen of each wrong attribute."""
    asked = {
        attribute: words[int(verdict.asked[row, column])]
        for column, (attribute, words) in enumerate(ATTRIBUTES.items())
    }
    seen = [
        words[int(verdict.judged[row, column])]
        for column, words in enumerate(ATTRIBUTES.values())
        if verdict.asked[row, column] != verdict.judged[row, column]
    ]
    first = f"{asked['colour']} {asked['material']}\n{asked['object']}, {asked['ground']}"
    return f"{first}\nseen: {', '.join(islice(seen, 3))}"
