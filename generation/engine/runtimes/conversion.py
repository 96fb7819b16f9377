"""Conversion of a student to OpenVINO's format, cached in a folder.

A cache that is damaged or of other versions is made again from the release.
"""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from generation.engine import latents as conversions
from generation.engine import release as releases
from generation.engine import temporary_folders
from generation.engine.device import Device
from generation.engine.errors import ReleaseInvalid
from generation.engine.release import Manifest

# OpenVINO sends usage data to Google Analytics through this package on import. Blocking the package prevents this.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

if TYPE_CHECKING:
    import openvino

PROJECT = Path(__file__).resolve().parents[3]
REVISION = 2  # of this module and the networks; increase it when the converted files change
UNET, DECODER, KEYVALUES = "unet", "decoder", "keyvalues.safetensors"
FACTS = "facts.json"  # hashes of the other files; written last


@dataclass(frozen=True)
class Converted:
    """Converted networks. unet: (latents, keyvalues) or (latents, step, keyvalues) → prediction; decoder: latents →
    images; all fp32.
    """

    unet: "openvino.Model"
    decoder: "openvino.Model"
    keyvalue_weight: Tensor
    pixels_per_latent: int


def convert(folder: Path, manifest: Manifest, cache: Path | None) -> Converted:
    """Return the converted networks of a release, from the cache if possible.

    A subprocess converts, because torch keeps its traces, three times the size of the weights, until the process ends.
    cache: folder for the conversions of all releases; unless it is writable, nothing is kept. Raises RuntimeError.
    """
    name = key(folder, manifest)
    if cache is not None and (found := _read(cache / name)) is not None:
        return found
    with scratch(cache) as place:
        made = place / name
        command = [sys.executable, "-m", __name__, str(folder.resolve()), str(made)]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise RuntimeError(f"The conversion to OpenVINO failed: {lines[-1]}")
        if cache is not None:
            keep(made, cache)
        found = _read(made)  # keeps the files open
    if found is None:
        raise RuntimeError("The conversion to OpenVINO cannot be read.")
    return found


@contextmanager
def scratch(cache: Path | None) -> Iterator[Path]:
    """Yield a new temporary folder in the cache, or in the system's if the cache is not writable."""
    system = Path(tempfile.gettempdir())
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(temporary_folders.create(cache or system))
        except OSError:
            folder = stack.enter_context(temporary_folders.create(system))
        yield folder


def key(folder: Path, manifest: Manifest) -> str:
    """Return the name of a release's folder in the cache, which depends on its files and on versions."""
    files = releases.hash_file(folder / releases.MANIFEST)
    version = importlib.metadata.version("openvino")
    return f"{manifest.name}-{files[:16]}-openvino-{version}-{REVISION}"


class _UNet(nn.Module):
    """U-Net whose step is an input only if it has several: OpenVINO fuses a constant bias with the convolution."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, latents: Tensor, keyvalues: Tensor, step: Tensor | None = None) -> Tensor:
        return self.unet(latents, 0 if step is None else step, keyvalues)


class _Decoder(nn.Module):
    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: Tensor) -> Tensor:
        return conversions.latents_to_image(self.vae, latents)


def make(folder: Path, target: Path) -> None:
    """Convert a release in this process, into a new folder. Raises the same as `runtimes.torch.load`, and OSError."""
    # Imported here, so that with a cache neither torch's networks nor diffusers are loaded.
    from openvino import convert_model, save_model

    from generation.engine.runtimes import torch as reference

    manifest = releases.read(folder)
    loaded = reference.load(folder, manifest, Device(torch.device("cpu"), torch.float32, ""))
    width, height = (side // loaded.pixels_per_latent for side in manifest.image_sizes[0])
    weight = loaded.unet.keyvalue_weight.clone()
    channels, tokens = loaded.latent_channels, manifest.embedding_shape[0]
    is_one_size = len(manifest.image_sizes) == 1
    shapes: list[tuple[int, ...]] = [
        (-1, channels, *((height, width) if is_one_size else (-1, -1))),
        (-1, tokens, len(weight)),
    ]
    examples = [torch.zeros(2, channels, height, width), torch.zeros(2, tokens, len(weight))]
    if len(manifest.timesteps) > 1:
        shapes.append(())
        examples.append(torch.tensor(0))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about branches on shapes, which are equal for all batches
        unet = convert_model(_UNet(loaded.unet), example_input=tuple(examples), input=shapes)
        decoder = convert_model(
            _Decoder(loaded.vae), example_input=(examples[0],), input=[shapes[0]]
        )
    target.mkdir()
    save_model(unet, target / f"{UNET}.xml", compress_to_fp16=False)
    save_model(decoder, target / f"{DECODER}.xml", compress_to_fp16=False)
    save_file({"weight": weight}, target / KEYVALUES)
    hashes = {path.name: releases.hash_file(path) for path in sorted(target.iterdir())}
    facts = {"pixels_per_latent": loaded.pixels_per_latent, "sha256": hashes}
    (target / FACTS).write_text(json.dumps(facts), "utf-8")


def keep(made: Path, cache: Path) -> None:
    """Copy a conversion into the cache and remove other versions. Does nothing if the disk cannot be written."""
    with suppress(OSError), temporary_folders.create(cache) as temporary:
        copied = temporary / made.name
        shutil.copytree(made, copied)
        for other in cache.glob(f"{made.name.split('-openvino-')[0]}-openvino-*"):
            shutil.rmtree(other, ignore_errors=True)  # damaged, or of another version
        os.replace(copied, cache / made.name)


def _read(kept: Path) -> Converted | None:
    """Return the cached conversion, None if it is missing or damaged."""
    import openvino

    try:
        facts = json.loads((kept / FACTS).read_text("utf-8"))
        if any(releases.hash_file(kept / name) != found for name, found in facts["sha256"].items()):
            return None
        core = openvino.Core()
        unet, decoder = (core.read_model(kept / f"{name}.xml") for name in (UNET, DECODER))
        weight = load_file(kept / KEYVALUES)["weight"]
        return Converted(unet, decoder, weight, facts["pixels_per_latent"])
    except (ReleaseInvalid, OSError, ValueError, AttributeError, KeyError, TypeError, RuntimeError):
        return None  # ReleaseInvalid: a file is missing


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]))
