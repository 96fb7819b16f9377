"""A version of the detector as a folder, and its `detector.json`: bits, files, figures. Imports no torch.

It is written last, so a folder that has it is complete. A folder with only a classifier is a version too, without
required bits.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from distillation.detector.errors import DetectorUnusable
from distillation.resumable import atomic

MANIFEST = "detector.json"
CLASSIFIER = "config.json"
WEIGHTS = "model.safetensors"
# Optional sub-folders of networks for more bits: the picture's quality, the object's mask.
QUALITY = "quality"
SEGMENTATION = "segmentation"
FORMAT_VERSION = 1
Bit = TypeVar("Bit")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


@dataclass(frozen=True)
class File:
    path: str  # within the folder, with forward slashes
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Version:
    """bits: of the classifier, the quality network, the mask; groups: sizes of the groups of mutually exclusive bits.

    required: bits that every picture must have unless its prompt variant states otherwise. margin: by how much another
    bit of a group may be more likely than the wanted one before that fails. figures: measurements.
    """

    name: str
    bits: tuple[str, ...]
    groups: tuple[int, ...]
    required: tuple[str, ...]
    image_size: int
    files: tuple[File, ...]
    margin: float = 0.0
    figures: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ValueError(f"the name {self.name!r} is not letters, digits, - and _")
        if not self.bits or len(set(self.bits)) != len(self.bits):
            raise ValueError(f"the bits must be distinct names, at least one; not {self.bits}")
        if sum(self.groups) != len(self.bits) or min(self.groups, default=0) < 1:
            raise ValueError(f"the groups {self.groups} do not add up to {len(self.bits)} bits")
        if not 0 <= self.margin < 1:
            raise ValueError(f"the margin is from 0 to below 1, not {self.margin}")
        if unknown := [bit for bit in self.required if bit not in self.bits]:
            raise ValueError(f"required bits that it does not have: {', '.join(unknown)}")

    def has(self, part: str) -> bool:
        """Return whether the version has the sub-folder `part`: QUALITY or SEGMENTATION."""
        return any(PurePosixPath(file.path).parts[0] == part for file in self.files)


def grouped(bits: Iterable[Bit], sizes: Iterable[int]) -> tuple[tuple[Bit, ...], ...]:
    """Return the bits in groups of these sizes, in order."""
    rest = iter(bits)
    return tuple(tuple(islice(rest, size)) for size in sizes)


def write(
    folder: Path,
    *,
    name: str,
    bits: Sequence[str],
    groups: Sequence[int],
    required: Sequence[str],
    image_size: int,
    figures: Mapping[str, Any],
    margin: float = 0.0,
) -> Version:
    """Complete a folder: hash its files, write detector.json, and return the version."""
    folder = Path(folder)
    made = Version(
        name=name,
        bits=tuple(bits),
        groups=tuple(groups),
        required=tuple(required),
        image_size=image_size,
        files=_files(folder),
        margin=margin,
        figures=figures,
    )
    text = json.dumps(to_dict(made), indent=1, ensure_ascii=False)
    atomic.write_file(folder / MANIFEST, text + "\n")
    return made


def read(folder: Path) -> Version:
    """Return the version in a folder with or without detector.json, and check hashes. Raises DetectorUnusable."""
    folder = Path(folder)
    try:
        if (folder / MANIFEST).is_file():
            version = from_dict(json.loads((folder / MANIFEST).read_text("utf-8")))
            _compare(folder, version)
            return version
        fields = json.loads((folder / CLASSIFIER).read_text("utf-8"))
        return Version(
            name=folder.resolve().name,
            bits=tuple(fields["bits"]),
            groups=tuple(fields["groups"]),
            required=(),
            image_size=fields["image_size"],
            files=tuple(_file(folder, folder / name) for name in (CLASSIFIER, WEIGHTS)),
        )
    except KeyError as error:
        raise DetectorUnusable(
            f"{folder} holds no usable detector: {error} is missing in its description."
        ) from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DetectorUnusable(
            f"{folder} holds no usable detector: {error}. Train it again, or copy the whole folder again."
        ) from error


def to_dict(version: Version) -> dict[str, Any]:
    """Return the content of detector.json."""
    return {"format_version": FORMAT_VERSION, **asdict(version)}


def from_dict(fields: Mapping[str, Any]) -> Version:
    """Return the version of a result of `to_dict`. Raises ValueError, TypeError or KeyError for anything else."""
    if (number := fields["format_version"]) != FORMAT_VERSION:
        raise ValueError(f"format version {number} is not {FORMAT_VERSION}")
    return Version(
        name=fields["name"],
        bits=tuple(fields["bits"]),
        groups=tuple(fields["groups"]),
        required=tuple(fields["required"]),
        image_size=int(fields["image_size"]),
        files=tuple(File(**file) for file in fields["files"]),
        margin=float(fields["margin"]),
        figures=fields["figures"],
    )


def _files(folder: Path) -> tuple[File, ...]:
    return tuple(
        _file(folder, path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST and not path.name.startswith(".")
    )


def _file(folder: Path, path: Path) -> File:
    data = path.read_bytes()
    return File(path.relative_to(folder).as_posix(), len(data), hashlib.sha256(data).hexdigest())


def _compare(folder: Path, version: Version) -> None:
    for file in version.files:
        parts = PurePosixPath(file.path).parts
        if PurePosixPath(file.path).is_absolute() or ".." in parts or not parts:
            raise ValueError(f"the file {file.path!r} lies outside the folder")
        if _file(folder, folder / file.path) != file:
            raise ValueError(f"{file.path} was changed after {MANIFEST} was written")
