"""Pictures of a release, made by the serving engine and kept as files."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from distillation.detector import pixels
from distillation.evaluation.prompts import Prompts
from distillation.evaluation.seeds import Seeds
from distillation.resumable import atomic
from distillation.resumable.progress import Bar
from generation.engine import device as devices
from generation.engine import pipeline as pipelines
from generation.engine import release as releases
from generation.engine.device import Device
from generation.engine.files import encode
from generation.engine.pipeline import Pipeline
from generation.engine.release import NEGATIVE_EMBEDS, Manifest
from generation.engine.request import GenerationRequest

BATCH = 16  # larger gains little on a CPU, and an interruption loses at most this many
SHAPING = ("unet/", "vae/", "scheduler/", NEGATIVE_EMBEDS)  # files that shape a picture
IMAGES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Album:
    """The pictures of one release: one file for each prompt and seed, [P][S]."""

    manifest: Manifest
    paths: tuple[tuple[Path, ...], ...]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, row: int) -> Tensor:
        """Return the pictures of one prompt in the order of its seeds, uint8 [S, 3, height, width]."""
        return torch.stack([read(path) for path in self.paths[row]])


def make(
    release: Path,
    prompts: Prompts,
    seeds: Seeds,
    *,
    cache: Path,
    device: str = "auto",
    title: str,
    progress_bar: bool = True,
) -> Album:
    """Return the pictures as the release serves them; those already in `cache` are reused.

    Raises ValueError if the release does not cover the prompts, and the errors of the engine.
    """
    manifest = releases.read(release)
    check_covered(manifest, prompts)
    facts = {
        "noise_scheduler": manifest.noise_scheduler,
        "prediction_type": manifest.prediction_type,
        "timesteps": manifest.timesteps,
        "guidance_scale": manifest.guidance_scale,
    }
    shaped_by = key(manifest, devices.choose(device), SHAPING, facts)
    folder = cache / f"{manifest.name}-{shaped_by}"
    embeddings = [prompts.embedding(row) for row in range(len(prompts))]
    paths = tuple(
        tuple(folder / f"{stored.sha256[:24]}-{seed}.png" for seed in row)
        for stored, row in zip(embeddings, seeds, strict=True)
    )
    requests = {
        path: GenerationRequest(stored, seed, *manifest.image_sizes[0])
        for stored, row, of_row in zip(embeddings, seeds, paths, strict=True)
        for seed, path in zip(row, of_row, strict=True)
    }
    make_missing(
        list(requests),
        lambda: (pipelines.load(release, device=device), requests),
        title=title,
        progress_bar=progress_bar,
    )
    return Album(manifest, paths)


def make_missing(
    paths: Sequence[Path],
    prepare: Callable[[], tuple[Pipeline, Mapping[Path, GenerationRequest]]],
    *,
    title: str,
    progress_bar: bool,
) -> None:
    """Make the missing PNG files of `paths`, in batches.

    prepare: returns the pipeline and the request of each path; called only if a picture is missing, because it may load
    networks. Raises the error of the first request that fails.
    """
    missing = [path for path in paths if not path.exists()]
    if not missing:
        return
    pipeline, requests = prepare()
    there = len(paths) - len(missing)
    with Bar(len(paths), title=title, unit="picture", done=there, is_shown=progress_bar) as bar:
        for start in range(0, len(missing), BATCH):
            part = missing[start : start + BATCH]
            results = pipeline.generate([requests[path] for path in part])
            for path, result in zip(part, results, strict=True):
                if result.pixels is None:
                    raise result.error or RuntimeError("The engine returned no picture.")
                path.parent.mkdir(parents=True, exist_ok=True)
                atomic.write_file(path, encode(result.pixels, "png"))
            bar.add(len(part))
            bar.stop_if_over()


def check_covered(manifest: Manifest, prompts: Prompts) -> None:
    """Raise ValueError unless the release takes these embeddings and covers these prompt variants."""
    if manifest.encoder_fingerprint != prompts.encoder_fingerprint:
        raise ValueError(
            f"The prompts were encoded by the encoder {prompts.encoder_fingerprint[:12]}…, {manifest.name} takes "
            f"embeddings of {manifest.encoder_fingerprint[:12]}…. Encode them with the encoder of its teacher."
        )
    if manifest.covered_variants:
        unknown = sorted(set(prompts.slugs) - set(manifest.covered_variants))
        if unknown:
            raise ValueError(
                f"{manifest.name} does not cover {', '.join(unknown[:5])}: {len(unknown)} of the prompts. "
                "Compare on those that it covers."
            )


def key(
    manifest: Manifest, device: Device, shaping: Sequence[str], facts: Mapping[str, Any]
) -> str:
    """Return 16 hexadecimal digits of everything that shapes pictures.

    shaping: first parts of the paths of files that count; facts: what counts as well, as JSON values.
    """
    everything = {
        "files": sorted(
            (file.path, file.sha256)
            for file in manifest.files
            if file.path.startswith(tuple(shaping))
        ),
        "size": manifest.image_sizes[0],
        "device": [device.place.type, device.dtype_name],
        **facts,
    }
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:16]


def read(path: Path) -> Tensor:
    """Read an image file as uint8 [3, height, width]: upright, in sRGB, on white where it is transparent."""
    with Image.open(path) as image:
        seen = pixels.srgb(pixels.plain(ImageOps.exif_transpose(image)))
    return torch.from_numpy(np.array(seen)).permute(2, 0, 1).contiguous()


def size_of(path: Path) -> tuple[int, int]:
    """Return width and height of an image file, without reading its pixels."""
    with Image.open(path) as image:
        return image.size


def image_files(folder: Path) -> list[Path]:
    """Return all images in the folder and below it, sorted. Raises ValueError if there are fewer than two."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGES)
    if len(found) < 2:
        raise ValueError(f"{folder} contains {len(found)} images; give at least two.")
    return found
