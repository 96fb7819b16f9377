"""Write the trained networks as a release, and next to it the judges and the history of the trainings.

The release is a folder in Stable Diffusion's layout in fp16, completed by the engine's importer.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import diffusers
import torch
from safetensors.torch import load_file, save_file

from distillation.detector import network as detectors
from distillation.resumable import atomic
from distillation.starter import clip as clips
from distillation.starter import examiner as examiners
from generation.engine import importing
from generation.engine.importing import TOKENIZER_FILES, Options
from generation.engine.networks import write_json
from generation.engine.release import Manifest

MAX_BYTES = 100_000_000  # of the release, which is committed
WEIGHTS = "diffusion_pytorch_model.safetensors"
MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": diffusers.__version__,
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


class PackRefused(Exception):
    """The trained networks cannot be packed; the message gives the reason and the remedy."""


@dataclass(frozen=True)
class PackRecipe:
    """Name and sampling parameters in the manifest. guidance_scale: 1 = none; steps: of deterministic DDIM."""

    name: str = "starter-teacher-2"
    guidance_scale: float = 1.0  # the teacher is trained towards its guided prediction
    steps: int = 50


def write(
    target: Path,
    *,
    unet: Path,
    vae: Path,
    clip: Path,
    tokenizer: Path,
    scheduler: Path,
    guidance_scale: float,
    steps: int = 50,
    name: str = "starter-teacher-2",
    most_bytes: int = MAX_BYTES,
) -> Manifest:
    """Write or replace the release in `target` and return its manifest. unet … scheduler: folders of the components.

    Raises PackRefused or ReleaseInvalid; `target` is then unchanged.
    """
    options = Options(
        kind="teacher",
        noise_scheduler="ddim",
        steps=steps,
        guidance_scale=guidance_scale,
    )

    def make(folder: Path) -> Manifest:
        with tempfile.TemporaryDirectory(prefix=".packing-", dir=folder.parent) as temporary:
            source = Path(temporary) / "diffusers"
            _write_component(unet, source / "unet")
            _write_component(vae, source / "vae")
            _write_text_encoder(clip, source / "text_encoder")
            _copy(tokenizer, source / "tokenizer", TOKENIZER_FILES)
            _copy(scheduler, source / "scheduler", ("scheduler_config.json",))
            write_json(source / "model_index.json", MODEL_INDEX)
            manifest = importing.import_folder(source, folder, name=name, options=options)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if size > most_bytes:
            raise PackRefused(
                f"The release has {size:,} bytes; at most {most_bytes:,} can be committed. "
                "Train a teacher with fewer channels or layers."
            )
        return manifest

    return atomic.make_folder(target, make)


def write_judges(target: Path, *, detector: Path, clip: Path, examiner: Path) -> None:
    """Write or replace the folder `target`: `detector`, and in fp16 `clip` and `examiner`."""

    def make(folder: Path) -> None:
        detectors.save(detectors.load(detector), folder / "detector")
        clips.save(clips.load(clip).half(), folder / "clip")
        examiners.save(examiners.load(examiner).half(), folder / "examiner")

    atomic.make_folder(target, make)


def write_history(target: Path, stages: Mapping[str, Path]) -> None:
    """Write or replace the folder `target`: the record and the loss curve of each stage, in files named by the stage.

    stages: folders by name; stages without a training have no curve. Raises PackRefused for an unfinished stage.
    """

    def make(folder: Path) -> None:
        folder.mkdir(parents=True)
        for name, stage in stages.items():
            record, curve = stage / "done.json", stage / "metrics.jsonl"
            if not record.is_file():
                raise PackRefused(
                    f"{record} is missing: the stage {name} is not finished. Build it first."
                )
            shutil.copyfile(record, folder / f"{name}.json")
            if curve.is_file():
                shutil.copyfile(curve, folder / f"{name}.jsonl")

    atomic.make_folder(target, make)


def publish(source: Path, target: Path) -> None:
    """Copy a folder written by this module to `target`, replacing an existing one."""
    atomic.make_folder(target, lambda folder: shutil.copytree(source, folder))


# --- components -----------------------------------------------------------------------------------
def _write_component(source: Path, target: Path) -> None:
    """Write a diffusers network in fp16. Tensors are converted one by one: equal weights give equal bytes."""
    target.mkdir(parents=True)
    config = json.loads((source / "config.json").read_text("utf-8"))
    config.pop("_name_or_path", None)  # a local folder
    write_json(target / "config.json", config)
    tensors = {key: _half(key, value) for key, value in load_file(source / WEIGHTS).items()}
    save_file(tensors, target / WEIGHTS, {"format": "pt"})


def _write_text_encoder(clip: Path, target: Path) -> None:
    """Write the text tower of the CLIP as a CLIPTextModel in fp16. Raises PackRefused."""
    text_encoder = clips.load(clip).text_model
    for key, value in text_encoder.state_dict().items():
        _half(key, value)
    text_encoder.half().save_pretrained(target)


def _half(key: str, value: torch.Tensor) -> torch.Tensor:
    """Return a floating-point tensor in fp16, others unchanged. Raises PackRefused if a value overflows."""
    if not value.is_floating_point():
        return value
    half = value.half()
    if not half.isfinite().all():
        raise PackRefused(
            f"{key} has values beyond the range of fp16 (up to {value.abs().max().item():.3g}). "
            "Train with a smaller learning rate or more weight decay."
        )
    return half


def _copy(source: Path, target: Path, names: tuple[str, ...]) -> None:
    target.mkdir(parents=True)
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
