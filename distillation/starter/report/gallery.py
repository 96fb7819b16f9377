"""The three contact sheets of the report on the starter."""

from pathlib import Path

from distillation.evaluation.report import sheets
from distillation.evaluation.report.sheets import Row
from distillation.starter.captions import captions
from distillation.starter.report.measurement import Judges, Measured, Splits
from distillation.starter.report.metrics import BitVerdict
from distillation.starter.report.sampler import TeacherSampler
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

SHEET_SEEDS, SIDE_BY_SIDE = 0, 4_000_000  # first seeds
ACROSS = 8  # pictures per row
MISTAKES = 2 * ACROSS


def sheet_combinations() -> list[Combination]:
    """Return one combination per object; together they have all words of all attributes. The last two are held out."""
    chosen = []
    for number, word in enumerate(OBJECTS):
        pool = sorted(HELD_OUT) if number >= len(OBJECTS) - 2 else TRAINED
        wanted = (COLOURS[number], MATERIALS[number % 4], GROUNDS[number % 3])
        same_object = [combination for combination in pool if combination.object == word]
        # The wanted colour matters most, the wanted ground least; the first of equal ones is chosen.
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
    path: Path, sampler: TeacherSampler, judges: Judges, *, size: int, guidance_scale: float
) -> None:
    """Write a sheet of `size` prompts (rows) and `size` seeds (columns), without any selection of pictures."""
    chosen = sheet_combinations()[:size]
    seeds = list(range(SHEET_SEEDS, SHEET_SEEDS + size))
    pictures = sampler.make(
        [captions(combination)[0] for combination in chosen for _ in seeds],
        seeds * len(chosen),
        guidance_scale=guidance_scale,
        title="contact sheet",
    )
    rows = []
    for combination, row in zip(chosen, pictures.split(size), strict=True):
        right = judges.by_detector(row, [combination] * size).all_four
        origin = ", held out" if combination in HELD_OUT else ""
        rows.append(
            Row(f"{captions(combination)[0]}{origin} ({right.count} of {right.total} right)", row)
        )
    sheets.write(path, rows)


def side_by_side(path: Path, sampler: TeacherSampler, splits: Splits, measured: Measured) -> None:
    """Write a sheet of photographs of each split, their VAE reconstructions and pictures of the same combinations."""
    rows = []
    for name, split in splits.tests.items():
        first = split.combinations[:ACROSS]
        pictures = sampler.make(
            [captions(combination)[0] for combination in first],
            list(range(SIDE_BY_SIDE, SIDE_BY_SIDE + len(first))),
            guidance_scale=measured.guidance,
            title=f"side by side, {name}",
        )
        words = tuple(f"{c.colour} {c.material}\n{c.object}, {c.ground}" for c in first)
        rows += [
            Row(f"{name}: photographs", split.images[:ACROSS]),
            Row("their VAE reconstructions", measured.reconstructions[name][:ACROSS]),
            Row("generated pictures of the same combinations", pictures, words),
        ]
    sheets.write(path, rows)


def mistakes(path: Path, measured: Measured) -> None:
    """Write a sheet of the first pictures of each part with a wrong attribute; remove the file if there are none."""
    rows = []
    for name, verdict in measured.teacher.items():
        wrong = (~verdict.right).nonzero().flatten().tolist()[:MISTAKES]
        title = (
            f"{name}: the first {len(wrong)} wrong pictures, the requested and the predicted words"
        )
        for start in range(0, len(wrong), ACROSS):
            chosen = wrong[start : start + ACROSS]
            words = tuple(_difference(verdict, row) for row in chosen)
            rows.append(Row("" if start else title, measured.pictures[name][chosen], words))
    path.unlink(missing_ok=True)
    if rows:
        sheets.write(path, rows, text_size=11)


def _difference(verdict: BitVerdict, row: int) -> str:
    """Return three lines: the requested colour and material, the requested object and ground, the wrong predictions."""
    requested = {
        attribute: words[int(verdict.asked[row, column])]
        for column, (attribute, words) in enumerate(ATTRIBUTES.items())
    }
    predicted = [
        words[int(verdict.judged[row, column])]
        for column, words in enumerate(ATTRIBUTES.values())
        if verdict.asked[row, column] != verdict.judged[row, column]
    ]
    lines = [
        f"{requested['colour']} {requested['material']}",
        f"{requested['object']}, {requested['ground']}",
        f"predicted: {', '.join(predicted[:3])}",
    ]
    return "\n".join(lines)
