"""Sheets of pictures with captions, as small WebP files. Knows no judge and no measure."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from generation.engine.files import encode

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
        parting = 0 if self.parted_at is None else PARTING
        return (
            self.pictures.shape[3] * len(self.pictures) + GAP * (len(self.pictures) + 1) + parting
        )

    def left(self, column: int) -> int:
        parting = PARTING if self.parted_at is not None and column >= self.parted_at else 0
        return GAP + column * (self.pictures.shape[3] + GAP) + parting


def write(path: Path, rows: Sequence[Row], *, text_size: int = 13) -> None:
    """The rows below each other. path ends in .webp; the folder must exist."""
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
    """uint8 (n, 3, height, width), at most SIDE pixels a side."""
    height, width = pictures.shape[2:]
    if max(height, width) <= SIDE:
        return pictures
    size = (round(SIDE * height / max(height, width)), round(SIDE * width / max(height, width)))
    shrunk = functional.interpolate(pictures.float(), size, mode="bilinear", antialias=True)
    return shrunk.round().clamp(0, 255).to(torch.uint8)


def _height(row: Row, line: int) -> int:
    captions = max((len(caption.splitlines()) for caption in row.captions), default=0)
    return (line if row.title else 0) + row.pictures.shape[2] + captions * line + GAP
