"""Contact sheets: rows of pictures with captions, as small WebP files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from distillation.evaluation.pictures import Album
from distillation.evaluation.results import Evaluation
from generation.engine.files import encode

ROWS, SEEDS = 8, 4  # of the sheets of an evaluation
SPREAD, WORST = "sheet.webp", "worst.webp"
GOLDEN = (5**0.5 - 1) / 2
SIDE = 160  # pixels of a small picture, at most
GAP, PARTING = 4, 16
PAPER, INK, ALARM = (255, 255, 255), (30, 30, 30), (190, 30, 30)


@dataclass(frozen=True)
class Row:
    """pictures: uint8 (n, 3, height, width); title: above the row, over its whole width;
    captions: one under each picture, or none at all; those in `alarming` are red."""

    title: str
    pictures: Tensor
    captions: tuple[str, ...] = ()
    alarming: frozenset[int] = frozenset()
    parted_at: int | None = None  # a wide gap before this picture

    @property
    def width(self) -> int:
        return self.left(len(self.pictures))

    def left(self, column: int) -> int:
        parting = PARTING if self.parted_at is not None and column >= self.parted_at else 0
        return GAP + column * (self.pictures.shape[3] + GAP) + parting


def write(path: Path, rows: Sequence[Row], *, text_size: int = 13) -> None:
    """Write the rows below each other. path ends in .webp; the folder must exist.

    Raises ValueError for a row without pictures or with too few captions.
    """
    if not rows or any(len(row.pictures) == 0 for row in rows):
        raise ValueError("A sheet has at least one row, and a row at least one picture.")
    if any(row.captions and len(row.captions) != len(row.pictures) for row in rows):
        raise ValueError("A row has a caption for each of its pictures, or none.")
    font = ImageFont.load_default(text_size)
    line = text_size + GAP
    width = max(row.width for row in rows)
    height = GAP + sum(_height(row, line) for row in rows)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    top = GAP
    for row in rows:
        if row.title:
            draw.text((GAP, top), row.title, fill=INK, font=font)
            top += line
        for column, picture in enumerate(row.pictures):
            left = row.left(column)
            sheet.paste(Image.fromarray(picture.permute(1, 2, 0).numpy()), (left, top))
            if row.captions:
                ink = ALARM if column in row.alarming else INK
                for number, text in enumerate(row.captions[column].splitlines()):
                    place = (left, top + picture.shape[1] + number * line)
                    draw.text(place, text, fill=ink, font=font)
        top += _height(row, line) - (line if row.title else 0)
    path.write_bytes(encode(sheet, "webp"))


def small(pictures: Tensor) -> Tensor:
    """Return the pictures scaled down to at most SIDE pixels a side, uint8 (n, 3, height, width)."""
    height, width = pictures.shape[2:]
    if max(height, width) <= SIDE:
        return pictures
    size = (round(SIDE * height / max(height, width)), round(SIDE * width / max(height, width)))
    shrunk = functional.interpolate(pictures.float(), size, mode="bilinear", antialias=True)
    return shrunk.round().clamp(0, 255).to(torch.uint8)


def _height(row: Row, line: int) -> int:
    captions = max((len(caption.splitlines()) for caption in row.captions), default=0)
    return (line if row.title else 0) + row.pictures.shape[2] + captions * line + GAP


# --- sheets of an evaluation ----------------------------------------------------------------------
def draw(
    evaluation: Evaluation,
    student: Album,
    teacher: Album,
    right: tuple[Tensor, Tensor] | None,
    folder: Path,
) -> dict[str, str]:
    """Return the files by name: "sheet", of `spread` prompts; "worst", of those with the greatest losses, if any.

    right: of student and teacher, [P, S]: 0 or 1 where a detector judged.
    """
    texts = [prompt.text for prompt in evaluation.per_prompt]
    lost = [evaluation.per_prompt.index(prompt) for prompt in evaluation.losers[:ROWS]]
    albums = {"teacher": teacher, "student": student}
    verdicts = {} if right is None else {"teacher": right[1], "student": right[0]}
    drawn = {}
    for name, file, rows in (("sheet", SPREAD, spread(len(texts))), ("worst", WORST, lost)):
        (folder / file).unlink(missing_ok=True)
        if rows:
            compare(folder / file, albums, texts, rows=rows, right=verdicts)
            drawn[name] = file
    return drawn


def compare(
    path: Path,
    albums: Mapping[str, Album],
    texts: Sequence[str],
    *,
    rows: Sequence[int] | None = None,
    right: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a sheet of several releases, by name, the first SEEDS pictures of each prompt in one row.

    The albums have the same prompts and seeds. texts: of all prompts; rows: the prompts that are shown, None = all;
    right: by name, [P, S], 0 marks a picture as wrong.
    """
    found = []
    for number in range(len(texts)) if rows is None else rows:
        pictures: list[Tensor] = []
        captions: list[str] = []
        wrong: set[int] = set()
        for name, album in albums.items():
            pictures.append(album.read(number)[:SEEDS])
            for seed in range(len(pictures[-1])):
                words = [name] if seed == 0 else []
                if right is not None and name in right and right[name][number, seed] == 0:
                    wrong.add(len(captions))
                    words.append("wrong")
                captions.append(", ".join(words))
        row = small(torch.cat(pictures))
        found.append(Row(texts[number], row, tuple(captions), frozenset(wrong), len(pictures[0])))
    write(path, found)


def spread(count: int) -> list[int]:
    """Return up to ROWS different numbers below `count`, ascending, evenly distributed but without a period.

    A sorted catalogue is periodic: every 32nd of 256 prompts is a clay ball. Multiples of the golden ratio share no
    period with anything.
    """
    found: set[int] = set()
    number = 0
    while len(found) < min(ROWS, count):
        found.add(int(count * (number * GOLDEN % 1)))
        number += 1
    return sorted(found)
