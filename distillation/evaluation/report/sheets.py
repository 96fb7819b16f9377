"""Contact sheets: rows of pictures with captions, as small WebP files."""

from collections.abc import Collection, Mapping, Sequence
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
KNOWN = 2  # least number of rows of prompts that are not new
GREY = 230  # in place of a missing picture
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
    *,
    new: Collection[str] = (),
) -> dict[str, str]:
    """Return the files by name: "sheet", of `chosen` prompts; "worst", of those with the greatest losses, if any.

    right: of student and teacher, [P, S]: 0 or 1 where a detector judged. new: slugs that are shown first.
    """
    texts = [prompt.text for prompt in evaluation.per_prompt]
    lost = [evaluation.per_prompt.index(prompt) for prompt in evaluation.losers[:ROWS]]
    albums = {"teacher": teacher, "student": student}
    verdicts = {} if right is None else {"teacher": right[1], "student": right[0]}
    drawn = {}
    of_new = [row for row, prompt in enumerate(evaluation.per_prompt) if prompt.slug in set(new)]
    shown = chosen(len(texts), of_new)
    for name, file, numbers in (("sheet", SPREAD, shown), ("worst", WORST, lost)):
        (folder / file).unlink(missing_ok=True)
        if numbers:
            found = rows(albums, texts, numbers=numbers, right=verdicts, new=of_new)
            write(folder / file, found)
            drawn[name] = file
    return drawn


def rows(
    albums: Mapping[str, Album | None],
    texts: Sequence[str],
    *,
    numbers: Sequence[int],
    right: Mapping[str, Tensor] | None = None,
    new: Collection[int] = (),
) -> list[Row]:
    """Return rows of several releases, by name: the first SEEDS pictures of each prompt in one row.

    The albums have the same prompts and seeds; None: the release does not cover them, and its places are grey; the
    first is not None. texts: of all prompts; numbers: the prompts that are shown; right: by name, [P, S], 0 marks a
    picture as wrong; new: prompts that are labelled as new.
    """
    found = []
    for number in numbers:
        pictures: list[Tensor] = []
        captions: list[str] = []
        wrong: set[int] = set()
        for name, album in albums.items():
            if album is None:
                pictures.append(torch.full_like(pictures[0], GREY))
            else:
                pictures.append(album.read(number)[:SEEDS])
            for seed in range(len(pictures[-1])):
                words = [name if album else f"{name}: not covered"] if seed == 0 else []
                if right is not None and name in right and right[name][number, seed] == 0:
                    wrong.add(len(captions))
                    words.append("wrong")
                captions.append(", ".join(words))
        title = f"new: {texts[number]}" if number in new else texts[number]
        row = small(torch.cat(pictures))
        found.append(Row(title, row, tuple(captions), frozenset(wrong), len(pictures[0])))
    return found


def chosen(count: int, new: Sequence[int]) -> list[int]:
    """Return up to ROWS different numbers below `count`: of `new` first, then of the others, KNOWN of them at least."""
    known = sorted(set(range(count)) - set(new))
    first = [new[place] for place in spread(len(new), most=ROWS - min(KNOWN, len(known)))]
    return first + [known[place] for place in spread(len(known), most=ROWS - len(first))]


def spread(count: int, *, most: int = ROWS) -> list[int]:
    """Return up to `most` different numbers below `count`, ascending, evenly distributed but without a period.

    A sorted catalogue is periodic: every 32nd of 256 prompts is a clay ball. Multiples of the golden ratio share no
    period with anything.
    """
    found: set[int] = set()
    number = 0
    while len(found) < min(most, count):
        found.add(int(count * (number * GOLDEN % 1)))
        number += 1
    return sorted(found)
