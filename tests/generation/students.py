"""An untrained student's bundle at toy size, written by the real writer, with the teacher's embeddings."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from generation.engine import bundle, release
from generation.engine.prompts import embeddings, encoder
from generation.engine.release import Manifest


def make_bundle(
    target: Path,
    teacher: Path,
    prompts: Mapping[str, str],
    *,
    name: str = "student-1",
    timesteps: tuple[int, ...] = (999, 499),
) -> Manifest:
    """A bundle for `prompts` (slug → text) in the new folder `target`, with the networks' layout of the teacher."""
    manifest = release.read(teacher)
    torch.manual_seed(5)
    unet = UNet2DConditionModel.from_config(
        UNet2DConditionModel.load_config(teacher, subfolder="unet")
    )
    decoder = AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
    )
    stored = encoder.load(teacher).encode(list(prompts.values()))
    rows = np.stack([embeddings.unpack(row) for row in stored])
    return bundle.write(
        target,
        unet=unet,
        decoder=decoder,
        scheduler_config=json.loads((teacher / "scheduler/scheduler_config.json").read_text()),
        timesteps=timesteps,
        name=name,
        teacher=manifest,
        slugs=list(prompts),
        texts=list(prompts.values()),
        prompt_embeds=torch.from_numpy(rows),
        recipe={"name": "test"},
        code_revision="test",
    )
