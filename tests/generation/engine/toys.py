"""Untrained students of toy teachers, cut and written by the real code."""

import functools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from distillation.students import cuts, weights
from distillation.students.unets import UNetShape
from generation.engine import bundle, release
from generation.engine.prompts.embeddings import unpack
from generation.engine.release import Manifest
from generation.engine.request import StoredEmbedding
from tests import tiny

SLUGS = ("red-vase", "blue-mug", "orange-ring")
TEXTS = ("a red vase", "a blue mug", "an orange ring")


@functools.cache
def teacher_unet(*, is_loud: bool = True) -> UNet2DConditionModel:
    """As Stable Diffusion 1.5's, with fewer channels.

    is_loud: enlarge the contributions of prompt and time, which are small in random networks. Rounding errors grow too.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        unet = UNet2DConditionModel(**tiny.sd15_unet_config())
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if is_loud and ("attn2" in name or "time_emb_proj" in name):
                weight *= 4
    return unet.requires_grad_(False).eval()


def student_unet(cut: str = "tiny", *, is_loud: bool = True) -> UNet2DConditionModel:
    """fp32, with the teacher's weights."""
    teacher, chosen = teacher_unet(is_loud=is_loud), cuts.cut_named(cut)
    shape = UNetShape(teacher.config)
    unet = UNet2DConditionModel.from_config(cuts.student_shape(shape, chosen).config)
    unet.load_state_dict(weights.copy(teacher.state_dict(), shape, cut=chosen))
    return unet.requires_grad_(False).eval()


def decoder(*, levels: int = 4, latent_channels: int = 4, shuffle: int = 1) -> AutoencoderTiny:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        vae = AutoencoderTiny(
            latent_channels=latent_channels,
            out_channels=3 * shuffle**2,
            encoder_block_out_channels=(8,) * levels,
            decoder_block_out_channels=(8,) * levels,
            num_encoder_blocks=(1,) * levels,
            num_decoder_blocks=(1,) * levels,
        )
    with torch.no_grad():
        vae.decoder.layers[-1].weight.mul_(8)  # else every picture is nearly grey
        vae.decoder.layers[-1].bias.fill_(0.5)
    return vae.requires_grad_(False).eval()


def write_student(
    target: Path,
    teacher: Path,
    embeddings: Sequence[StoredEmbedding],
    *,
    timesteps: Sequence[int] = (999, 499),
    **changes: Any,
) -> Manifest:
    """A bundle of `student_unet` and `decoder`; `changes` are other arguments of `bundle.write`."""
    config = json.loads((teacher / "scheduler/scheduler_config.json").read_text("utf-8"))
    arguments: dict[str, Any] = {
        "unet": student_unet(),
        "decoder": decoder(),
        "scheduler_config": config,
        "timesteps": timesteps,
        "name": "toy-student",
        "teacher": release.read(teacher),
        "slugs": SLUGS,
        "texts": TEXTS,
        "prompt_embeds": torch.from_numpy(np.stack([unpack(stored) for stored in embeddings])),
        "recipe": {"cut": "tiny"},
        "code_revision": "abc",
    }
    return bundle.write(target, **{**arguments, **changes})


def rewrite(folder: Path, **changes: Any) -> None:
    """Write the manifest of a changed release again."""
    manifest = release.read(folder)
    release.write(folder, replace(manifest, files=release.list_files(folder), **changes))
