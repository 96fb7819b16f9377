"""Sharpness and texture of releases' pictures against those of a folder of real ones, all at one size."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from distillation.evaluation import pictures
from distillation.evaluation.pictures import Album
from distillation.image_metrics import sharpness, texture
from distillation.image_metrics.distances import Interval
from distillation.resumable.progress import Bar


@dataclass(frozen=True)
class ToReal:
    """The pictures of a release against real ones. side: pixels at which they were measured, the smaller size of both.

    gradient, laplacian: the release's means ÷ those of the real pictures; texture: the distance, × 1000.
    """

    real: int  # pictures
    side: int
    gradient: float
    laplacian: float
    texture: Interval | None


@dataclass(frozen=True)
class _Looks:
    """Sharpness and texture of N pictures. gradient, laplacian (variance): [N]; textures: [N, d], None if too small."""

    gradient: Tensor
    laplacian: Tensor
    textures: Tensor | None


def compare(
    albums: Mapping[str, Album], folder: Path, *, progress_bar: bool = True
) -> dict[str, ToReal]:
    """Compare each album with the images of the folder; centre squares if they are not square.

    Raises ValueError if the folder contains fewer than two images, or only black ones.
    """
    files = pictures.image_files(folder)
    sizes = [album.manifest.image_sizes[0] for album in albums.values()]
    side = min(map(min, [*sizes, *(pictures.size_of(path) for path in files)]))
    bar = Bar(len(files), title="real pictures", unit="picture", is_shown=progress_bar)
    real = _looks((pictures.read(path)[None] for path in bar.over(files)), side)
    if not real.gradient.any():
        raise ValueError(f"The images in {folder} are all of one colour.")
    found = {}
    for name, album in albums.items():
        own = _looks((album.read(row) for row in range(len(album))), side)
        found[name] = ToReal(
            len(files),
            side,
            float(own.gradient.mean() / real.gradient.mean()),
            float(own.laplacian.mean() / real.laplacian.mean()),
            None
            if own.textures is None or real.textures is None or len(own.textures) < 2
            else texture.distance(own.textures, real.textures),
        )
    return found


def _looks(batches: Iterable[Tensor], side: int) -> _Looks:
    rows: list[tuple[Tensor, Tensor]] = []
    textures: list[Tensor] = []
    for batch in batches:
        images = sharpness.squares(batch, side)
        rows.append((sharpness.gradient(images), sharpness.laplacian_variance(images)))
        if side >= texture.MIN_SIDE:
            textures.append(texture.features(images))
    gradient, laplacian = (torch.cat(column) for column in zip(*rows, strict=True))
    return _Looks(gradient, laplacian, torch.cat(textures) if textures else None)
