"""A teacher that can be cut in every way, its pairs and its catalogue, all at toy size."""

import functools
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from distillation.trainers import teacher as teachers
from distillation.trainers.catalogue import Catalogue
from distillation.trainers.inputs import StageInputs
from distillation.trainers.objectives.batches import Batches, Shares
from distillation.trainers.objectives.protocol import Sources
from distillation.trainers.pairs import Pairs
from distillation.trainers.student import StudentRecipe
from distillation.trainers.teacher import Teacher
from tests import tiny
from tests.distillation.students import toys as unets

TIMESTEPS = (999, 749, 499, 249)
UNCUT = StudentRecipe(cut=None)
TINY = StudentRecipe(cut="tiny")
NARROW = StudentRecipe(cut=None, width="1/2")
TYPES = ("v_prediction", "epsilon")  # the starter's, with zero terminal SNR, and SD 1.5's
ALIKE = (TYPES[0], pytest.param(TYPES[1], marks=pytest.mark.slow))  # if they take the same path
_holders: list[tempfile.TemporaryDirectory] = []  # removed when the process ends


@functools.cache
def release(prediction_type: str = "v_prediction", seed: int = 0) -> Path:
    holder = tempfile.TemporaryDirectory(prefix="structure-")
    _holders.append(holder)
    folder = Path(holder.name) / f"teacher-{seed}"
    tiny.make_tiny_release(
        folder,
        name=f"teacher-{seed}",
        prediction_type=prediction_type,
        zero_snr=prediction_type == "v_prediction",
        guidance_scale=1.5,
        timesteps=TIMESTEPS,
        seed=seed,
    )
    return folder


@functools.cache
def _loaded(prediction_type: str) -> Teacher:
    return teachers.load(release(prediction_type), device="cpu")


@functools.cache
def _network(is_even: bool) -> UNet2DConditionModel:
    """Return a frozen network that all tests share: copy it before changing it."""
    widths = {"block_out_channels": [16, 16, 16], "attention_head_dim": 4} if is_even else {}
    unet = unets.unet(unets.STARTER.changed({**widths, "cross_attention_dim": tiny.WIDTH}))
    unet.set_attn_processor(AttnProcessor())
    return unet.requires_grad_(False).eval()


def teacher(
    prediction_type: str = "v_prediction", *, guidance_scale: float = 1.5, is_even: bool = False
) -> Teacher:
    """Return a teacher with the starter's block types in fp32, for exact comparisons.

    is_even: all levels equally wide, so that half of the channels can be kept.
    """
    loaded = _loaded(prediction_type)
    return replace(
        loaded,
        unet=_network(is_even),
        is_bf16=False,
        negative=loaded.negative if guidance_scale != 1 else None,
        manifest=replace(loaded.manifest, guidance_scale=guidance_scale),
    )


def catalogue() -> Catalogue:
    generator = torch.Generator().manual_seed(5)
    return Catalogue(
        slugs=("a", "b", "c"),
        texts=("a", "b", "c"),
        prompt_embeds=torch.randn(3, tiny.TOKENS, tiny.WIDTH, generator=generator).half(),
        encoder_fingerprint="toy",
    )


def pairs(count: int = 12) -> Pairs:
    """Return random pairs, of no particular teacher."""
    generator = torch.Generator().manual_seed(6)
    return Pairs(
        prompts=torch.arange(count) % 3,
        seeds=torch.arange(count) + 40,
        latents=torch.randn(count, 4, 8, 8, generator=generator).half(),
        path=torch.randn(count, 2, 4, 8, 8, generator=generator).half(),
        accepted=torch.ones(count, dtype=torch.bool),
        margins=torch.ones(count),
        path_timesteps=(749, 249),
    )


def batches(of: Teacher, *, size: int = 6, **shares: float) -> Batches:
    made = Shares(**{"path_share": 0.3, "first_timestep_share": 0.1, **shares})
    return Batches(made, size=size, teacher=of, pairs=pairs(), catalogue=catalogue())


def sources(of: Teacher, folder: Path, *, student: StudentRecipe = TINY, size: int = 6) -> Sources:
    return Sources(
        inputs=inputs(of, folder), student_recipe=student, batches=batches(of, size=size)
    )


def inputs(of: Teacher, folder: Path) -> StageInputs:
    return StageInputs(
        teacher=of, pairs=pairs(), catalogue=catalogue(), folder=folder, progress_bar=False
    )


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moved(student, *, by: float = 0.02):
    """Change the student's weights and return it."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return student
