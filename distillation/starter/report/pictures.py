"""Pictures of a teacher by the engine that serves it, each kept as a file. Knows no judge and no photograph."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import load_file

from distillation.evaluation import pictures
from generation.engine import device as devices
from generation.engine import encoder as encoders
from generation.engine import pipeline as pipelines
from generation.engine import release as releases
from generation.engine import sampling
from generation.engine.embeddings import unpack
from generation.engine.pipeline import Pipeline
from generation.engine.release import NEGATIVE_EMBEDS
from generation.engine.request import GenerationRequest, StoredEmbedding

SHAPING = (
    "unet/",
    "vae/",
    "text_encoder/",
    "tokenizer/",
    "scheduler/",
)  # files that shape a picture


class Studio:
    """One teacher, sampled by deterministic DDIM in `steps` "trailing" steps at any guidance.

    Pictures are kept in `cache`, by everything that shapes them, so that an interrupted row goes on where it was.
    """

    def __init__(
        self, pack: Path, cache: Path, *, steps: int = 50, progress_bar: bool = True
    ) -> None:
        self.pack = pack
        self.cache = cache
        self.manifest = releases.read(pack)
        self.size = self.manifest.image_sizes[0]  # width, height
        self.progress_bar = progress_bar
        self._scheduler_config = json.loads(
            (pack / "scheduler" / "scheduler_config.json").read_text("utf-8")
        ) | {"timestep_spacing": "trailing", "prediction_type": self.manifest.prediction_type}
        self.timesteps = sampling.default_timesteps(self._scheduler_config, steps)

    @cached_property
    def served(self) -> Pipeline:
        """As a worker loads it, with the guidance and the timesteps of the release itself."""
        return pipelines.load(self.pack)

    @cached_property
    def vae(self) -> AutoencoderKL:
        """In fp32, so that the rounding of the device it is served on does not count as its own error."""
        vae = AutoencoderKL.from_pretrained(
            self.pack / "vae",
            torch_dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
        )
        return vae.requires_grad_(False).eval().to(memory_format=torch.channels_last)

    def make(
        self, texts: Sequence[str], seeds: Sequence[int], *, guidance_scale: float, title: str
    ) -> torch.Tensor:
        """uint8 (n, 3, height, width) of n texts and as many seeds. Raises what the engine raises."""
        if len(texts) != len(seeds):
            raise ValueError(f"Each text has a seed of its own: {len(texts)} texts, {len(seeds)}.")
        folder = self._folder(guidance_scale)
        paths = [folder / _name(text, seed) for text, seed in zip(texts, seeds, strict=True)]

        def prepare() -> tuple[Pipeline, dict[Path, GenerationRequest]]:
            embeddings = self._encode(texts)
            return self._guided(guidance_scale), {
                path: GenerationRequest(embeddings[text], seed, *self.size)
                for path, text, seed in zip(paths, texts, seeds, strict=True)
            }

        pictures.make_missing(paths, prepare, title=title, progress_bar=self.progress_bar)
        return torch.stack([pictures.read(path) for path in paths])

    def _encode(self, texts: Sequence[str]) -> dict[str, StoredEmbedding]:
        unique = sorted(set(texts))
        return dict(zip(unique, self._encoder.encode(unique), strict=True))

    @cached_property
    def _encoder(self) -> encoders.Encoder:
        return encoders.load(self.pack)

    @cached_property
    def _negative(self) -> torch.Tensor:
        """(1, tokens, width): of the empty text. A release without guidance does not store it."""
        path = self.pack / NEGATIVE_EMBEDS
        if path.exists():
            return load_file(path)["negative_prompt_embeds"]
        return torch.tensor(np.array(unpack(self._encoder.encode([""])[0])))[None]

    def _guided(self, guidance_scale: float) -> Pipeline:
        """The same networks with another guidance and our timesteps. Without guidance at half the cost."""
        served = self.served
        manifest = replace(
            self.manifest,
            guidance_scale=guidance_scale,
            noise_scheduler="ddim",
            timesteps=self.timesteps,
            num_inference_steps=len(self.timesteps),
        )
        negative = None
        if guidance_scale != 1:
            negative = self._negative.to(served.device.place, served.dtype)
        return Pipeline(
            manifest, served.device, served.unet, served.vae, self._scheduler_config, negative
        )

    def _folder(self, guidance_scale: float) -> Path:
        """Named by what shapes a picture beside its text and seed; the guidance of the release itself does not."""
        device = devices.choose()
        facts = {
            "files": sorted(
                (file.path, file.sha256)
                for file in self.manifest.files
                if file.path.startswith(SHAPING)
            ),
            "scheduler": self._scheduler_config,
            "timesteps": self.timesteps,
            "size": self.size,
            "device": [device.place.type, device.dtype_name],
        }
        return self.cache / pictures.key(facts) / f"guidance-{guidance_scale:g}"


def _name(text: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}\n{text}".encode()).hexdigest()[:24] + ".png"
