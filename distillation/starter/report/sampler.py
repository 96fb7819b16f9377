"""Sample a teacher at any guidance scale with the serving engine; pictures are cached as files."""

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
from generation.engine import pipeline as pipelines
from generation.engine import release as releases
from generation.engine import sampling
from generation.engine.pipeline import Pipeline
from generation.engine.prompts import encoder as encoders
from generation.engine.prompts.embeddings import unpack
from generation.engine.release import NEGATIVE_EMBEDS
from generation.engine.request import GenerationRequest
from generation.engine.runtimes.torch import TorchRuntime

SHAPING = ("unet/", "vae/", "text_encoder/", "tokenizer/", "scheduler/")


class TeacherSampler:
    """Sampler of one teacher: deterministic DDIM with `steps` steps, "trailing" spacing, at any guidance scale.

    Pictures are cached in `cache` under a key of everything that they depend on, so an interrupted report continues.
    """

    def __init__(
        self, pack: Path, cache: Path, *, steps: int = 50, progress_bar: bool = True
    ) -> None:
        self.pack = pack
        self.cache = cache
        self.manifest = releases.read(pack)
        self.size = self.manifest.image_sizes[0]  # width, height
        self.progress_bar = progress_bar
        config = json.loads((pack / "scheduler" / "scheduler_config.json").read_text("utf-8"))
        self._scheduler_config = config | {
            "timestep_spacing": "trailing",
            "prediction_type": self.manifest.prediction_type,
        }
        self.timesteps = sampling.default_timesteps(self._scheduler_config, steps)

    @cached_property
    def served(self) -> Pipeline:
        """The pipeline as loaded by a worker, with the guidance scale and the timesteps of the release."""
        return pipelines.load(self.pack)

    @cached_property
    def vae(self) -> AutoencoderKL:
        """The VAE in fp32, so that its errors do not include rounding in a lower precision."""
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
        """Return a picture of each text and its seed, uint8 [N, 3, height, width]. Raises the errors of the engine."""
        folder = self._folder(guidance_scale)
        paths = [folder / _name(text, seed) for text, seed in zip(texts, seeds, strict=True)]

        def prepare() -> tuple[Pipeline, dict[Path, GenerationRequest]]:
            unique = sorted(set(texts))
            embeddings = dict(zip(unique, self._encoder.encode(unique), strict=True))
            return self._guided(guidance_scale), {
                path: GenerationRequest(embeddings[text], seed, *self.size)
                for path, text, seed in zip(paths, texts, seeds, strict=True)
            }

        pictures.make_missing(paths, prepare, title=title, progress_bar=self.progress_bar)
        return torch.stack([pictures.read(path) for path in paths])

    @cached_property
    def _encoder(self) -> encoders.Encoder:
        return encoders.load(self.pack)

    @cached_property
    def _negative(self) -> torch.Tensor:
        """The embedding of the empty text, [1, tokens, width]; encoded if the release does not store it."""
        path = self.pack / NEGATIVE_EMBEDS
        if path.exists():
            return load_file(path)["negative_prompt_embeds"]
        return torch.tensor(np.array(unpack(self._encoder.encode([""])[0])))[None]

    def _guided(self, guidance_scale: float) -> Pipeline:
        """Return a pipeline of the same networks with this guidance scale and the sampler's timesteps."""
        served = self.served
        manifest = replace(
            self.manifest,
            guidance_scale=guidance_scale,
            noise_scheduler="ddim",
            timesteps=self.timesteps,
            num_inference_steps=len(self.timesteps),
        )
        negative = None
        if guidance_scale != 1:  # 1 = no guidance, half the cost
            negative = self._negative.to(served.device.place, served.dtype)
        networks = served.runtime
        if not isinstance(networks, TorchRuntime):
            raise TypeError(f"The pipeline runs on {networks.name}, but the report needs torch.")
        runtime = TorchRuntime(networks.unet, networks.vae, self.timesteps, served.device)
        return Pipeline(manifest, served.device, runtime, self._scheduler_config, negative)

    def _folder(self, guidance_scale: float) -> Path:
        """Return the folder of the pictures with this guidance scale, whose names depend on text and seed."""
        facts = {"scheduler": self._scheduler_config, "timesteps": self.timesteps}
        key = pictures.key(self.manifest, devices.choose(), SHAPING, facts)
        return self.cache / key / f"guidance-{guidance_scale:g}"


def _name(text: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}\n{text}".encode()).hexdigest()[:24] + ".png"
