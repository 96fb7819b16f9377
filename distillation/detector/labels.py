"""A labelled folder: pictures, `labels.csv` with what they show, `bits.json` with the vocabulary.

labels.csv has the columns `file` and `tags` ("red,vase,not-large"), and may have `mask` (a picture of the object on
black; several objects in several greys), `defect` (a word for what is wrong with a bad picture), `lacks` (bits that a
bad picture does not show although its tags say so) and `part` (train or held-out; else the file's name decides). A tag
for a bit of a group makes the others absent.
"""

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from distillation.detector import pixels
from distillation.detector.errors import LabelsUnusable
from distillation.resumable.progress import Bar

LABELS = "labels.csv"
BITS = "bits.json"
PARTS = ("", "train", "held-out")
COLUMNS = ("file", "tags", "mask", "defect", "lacks", "part")  # the first two are required
# Learned without labels, from pictures that training degrades and from masks. Rows may name them, bits.json must not.
LEARNT = ("sharp", "clean", "whole", "large")
NOT = "not-"
UNKNOWN = -1.0
MAX_PIXELS = 64_000_000  # of a file; more is a mistake or an attack


@dataclass(frozen=True)
class Vocabulary:
    """groups: mutually exclusive bits, or single ones. required: the bits that every good picture shows."""

    groups: tuple[tuple[str, ...], ...]
    required: tuple[str, ...] = ()

    @property
    def bits(self) -> tuple[str, ...]:
        return tuple(bit for group in self.groups for bit in group)

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(len(group) for group in self.groups)

    def extended(self, bits: Sequence[str]) -> "Vocabulary":
        """Return the vocabulary with these bits appended, each as a required group of one."""
        new = tuple((bit,) for bit in bits if bit not in self.bits)
        required = (*self.required, *(bit for bit in bits if bit not in self.required))
        return Vocabulary((*self.groups, *new), required)


@dataclass(frozen=True)
class Row:
    """A line of labels.csv. present, absent: bits by its tags; lacks: bits in its tags that are not visible."""

    file: str
    line: int
    present: frozenset[str]
    absent: frozenset[str]
    lacks: frozenset[str]
    mask: str = ""
    defect: str = ""
    part: str = ""


@dataclass(frozen=True)
class Labelled:
    folder: Path
    rows: tuple[Row, ...]
    vocabulary: Vocabulary

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def digest(self) -> str:
        """Return a hash of the rows and of the sizes of the files."""
        found = hashlib.sha256(repr(self.vocabulary).encode())
        for row in self.rows:
            size = (self.folder / row.file).stat().st_size
            found.update(repr((replace(row, line=0), sorted(row.present), size)).encode())
        return found.hexdigest()

    def split(self, share: float) -> tuple["Labelled", "Labelled"]:
        """Return (training part, held-out part). Of rows without `part`, about `share` are held out.

        They are selected by a hash of the file name, so that a growing folder keeps its split.
        """
        held = [
            row.part == "held-out" or (not row.part and _rank(row.file) < share)
            for row in self.rows
        ]
        return (
            self.only([row for row, is_held in zip(self.rows, held, strict=True) if not is_held]),
            self.only([row for row, is_held in zip(self.rows, held, strict=True) if is_held]),
        )

    def only(self, rows: Sequence[Row]) -> "Labelled":
        return replace(self, rows=tuple(rows))

    def knowing(self, vocabulary: Vocabulary) -> "Labelled":
        """Return the rows with at least one known bit of the vocabulary."""
        rows = [row for row in self.rows if set(_truth(row, vocabulary)) != {UNKNOWN}]
        return self.only(rows)

    def truth(self, vocabulary: Vocabulary) -> Tensor:
        """Return the bits of each picture: 1, 0 or UNKNOWN, float32 [N, bits]."""
        return torch.tensor([_truth(row, vocabulary) for row in self.rows]).reshape(
            len(self), len(vocabulary.bits)
        )

    def images(self, size: int, *, progress_bar: bool = False) -> Tensor:
        """Return the centre squares of the pictures, uint8 [N, 3, size, size]. Raises LabelsUnusable."""
        pictures = [
            _read(self, row, row.file, size)
            for row in self._each("pictures", progress_bar=progress_bar)
        ]
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()

    def masks(self, size: int) -> Tensor:
        """Return uint8 [N, size, size]: 0 = background, objects numbered from 1. Raises LabelsUnusable."""
        masks = [_read_mask(self, row, size) for row in self._each("masks")]
        return torch.from_numpy(np.stack(masks))

    def _each(self, title: str, *, progress_bar: bool = False) -> Any:
        if not self.rows:
            raise LabelsUnusable(f"{self.folder / LABELS} names no suitable picture.")
        return Bar(len(self), title=title, unit="file", is_shown=progress_bar).over(self.rows)


def read(folder: Path, *, bits: Path | None = None) -> Labelled:
    """Read a labelled folder. bits: a file instead of its bits.json. Raises LabelsUnusable (with file, line)."""
    folder = Path(folder)
    vocabulary = read_vocabulary(bits or folder / BITS)
    path = folder / LABELS
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = [column.strip() for column in reader.fieldnames or []]
            _check_columns(path, columns)
            reader.fieldnames = columns
            rows = [_row(folder, vocabulary, fields, reader.line_num) for fields in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelsUnusable(f"{path} cannot be read: {error}.") from error
    if not rows:
        raise LabelsUnusable(f"{path} names no picture. Give a line for each.")
    seen: dict[str, int] = {}
    for row in rows:
        if row.file in seen:
            raise LabelsUnusable(
                f"{path} line {row.line}: {row.file} is already in line {seen[row.file]}."
            )
        seen[row.file] = row.line
    return Labelled(folder, tuple(rows), vocabulary)


def read_vocabulary(path: Path) -> Vocabulary:
    """Read {"groups": {"colour": ["red", "blue"], "logo": ["logo"]}, "required": []}. Raises LabelsUnusable."""
    try:
        fields = json.loads(Path(path).read_text("utf-8"))
        if unknown := set(fields) - {"groups", "required"}:
            raise ValueError(f"{', '.join(sorted(unknown))} is not a field")
        groups = tuple(tuple(words) for words in fields["groups"].values())
        found = Vocabulary(groups, tuple(fields.get("required", ())))
        names = found.bits
        if not names or len(set(names)) != len(names):
            raise ValueError("the bits must be distinct names, at least one")
        if bad := [n for n in names if not isinstance(n, str) or n.startswith(NOT) or "," in n]:
            raise ValueError(
                f"{bad[0]!r} cannot name a bit: a name has no comma and does not start with {NOT!r}"
            )
        if learnt := sorted(set(names) & set(LEARNT)):
            raise ValueError(f"{learnt[0]} is learnt without labels: leave it out")
        if not all(groups) or set(found.required) - set(names):
            raise ValueError("a group must name at least one bit, and required must name bits")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise LabelsUnusable(
            f"{path} does not define the bits ({error}). Its format is "
            '{"groups": {"colour": ["red", "blue"], …}, "required": []}.'
        ) from error
    return found


def write(folder: Path, rows: Sequence[Row], vocabulary: Mapping[str, Sequence[str]]) -> None:
    """Write labels.csv and bits.json. vocabulary: the groups by name."""
    folder = Path(folder)
    text = json.dumps(
        {"groups": {name: list(words) for name, words in vocabulary.items()}}, indent=1
    )
    (folder / BITS).write_text(text + "\n", encoding="utf-8")
    with (folder / LABELS).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            tags = sorted(row.present) + sorted(NOT + bit for bit in row.absent)
            lacks = ",".join(sorted(row.lacks))
            writer.writerow([row.file, ",".join(tags), row.mask, row.defect, lacks, row.part])


# --- lines ----------------------------------------------------------------------------------------
def _check_columns(path: Path, columns: Sequence[str]) -> None:
    if missing := [name for name in COLUMNS[:2] if name not in columns]:
        raise LabelsUnusable(f"{path} line 1: the column {missing[0]} is missing.")
    if unknown := [name for name in columns if name not in COLUMNS]:
        raise LabelsUnusable(
            f"{path} line 1: {unknown[0]!r} is not a column. The columns are {', '.join(COLUMNS)}."
        )


def _row(folder: Path, vocabulary: Vocabulary, fields: dict[str, Any], line: int) -> Row:
    where = f"{folder / LABELS} line {line}"
    if None in fields or None in fields.values():
        raise LabelsUnusable(
            f'{where}: fields and columns differ in number. Quote tags: "red,vase".'
        )
    tags = _words(fields["tags"])
    present = frozenset(tag for tag in tags if not tag.startswith(NOT))
    absent = frozenset(tag.removeprefix(NOT) for tag in tags if tag.startswith(NOT))
    lacks = frozenset(_words(fields.get("lacks", "")))
    known = {*vocabulary.bits, *LEARNT}
    if unknown := sorted((present | absent | lacks) - known):
        raise LabelsUnusable(
            f"{where}: {unknown[0]!r} is not a bit. The bits are {', '.join(vocabulary.bits)}."
        )
    for group in vocabulary.groups:
        if len(twice := sorted(present.intersection(group))) > 1:
            raise LabelsUnusable(
                f"{where}: {' and '.join(twice)} belong to one group, of which only one can be true."
            )
    if both := sorted(present & absent):
        raise LabelsUnusable(f"{where}: {both[0]} is both present and absent.")
    file, mask = fields["file"].strip(), fields.get("mask", "").strip()
    for name in filter(None, (file, mask)):
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise LabelsUnusable(f"{where}: {name} lies outside the folder.")
        if not (folder / name).is_file():
            raise LabelsUnusable(f"{where}: there is no file {name}.")
    if not file:
        raise LabelsUnusable(f"{where}: no file is named.")
    defect, part = fields.get("defect", "").strip(), fields.get("part", "").strip()
    if part not in PARTS:
        raise LabelsUnusable(f"{where}: {part!r} is not a part. Give train, held-out or nothing.")
    return Row(file, line, present, absent, lacks, mask, defect, part)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _truth(row: Row, vocabulary: Vocabulary) -> list[float]:
    values = []
    for group in vocabulary.groups:
        named = row.present.intersection(group) - row.lacks
        for bit in group:
            if bit in named:
                values.append(1.0)
            elif named or bit in row.absent or bit in row.lacks:
                values.append(0.0)
            elif bit in vocabulary.required and not row.defect:
                values.append(1.0)
            else:
                values.append(UNKNOWN)
    return values


def _rank(name: str) -> float:
    """Return a number from 0 to 1 that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48


# --- files ----------------------------------------------------------------------------------------
def _read(labelled: Labelled, row: Row, name: str, size: int) -> np.ndarray:
    with _opened(labelled, row, name) as picture:
        upright = pixels.srgb(pixels.plain(ImageOps.exif_transpose(picture)))
    return np.array(ImageOps.fit(upright, (size, size), Image.Resampling.LANCZOS))


def _read_mask(labelled: Labelled, row: Row, size: int) -> np.ndarray:
    with _opened(labelled, row, row.mask) as picture:
        grey = picture.convert("L")
    levels = np.array(ImageOps.fit(grey, (size, size), Image.Resampling.NEAREST))
    _, numbers = np.unique(np.append(levels, 0), return_inverse=True)  # 0 is always the background
    return numbers[:-1].reshape(levels.shape).astype(np.uint8)


def _opened(labelled: Labelled, row: Row, name: str) -> Image.Image:
    where = f"{labelled.folder / LABELS} line {row.line}: {name}"
    try:
        picture = Image.open(labelled.folder / name, formats=("PNG", "JPEG", "WEBP"))
        if picture.width * picture.height > MAX_PIXELS:
            raise ValueError(f"{picture.width}×{picture.height} pixels are too many")
        picture.load()
    except (*pixels.UNREADABLE, Image.DecompressionBombError) as error:
        raise LabelsUnusable(f"{where} cannot be read as PNG, JPEG or WebP: {error}.") from error
    return picture
