"""The same comparison at Stable Diffusion 1.5's true shape, 512 × 512: real layout, bytes and time, random weights.

The weights are random, so the pictures are noise. Of the teacher's 50 steps only a few are run; the rest is
extrapolated, and the output says so.
"""

import gc
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from distillation.pipeline import recipes
from distillation.students import cuts
from distillation.students.unets import UNetShape
from distillation.trainers import decoder as decoders
from generation.engine import bundle, release
from tests.bench import distilled
from tests.bench.distilled import Say
from tests.distillation.checkpoint15 import make_teacher

ROUNDS = 2
STEPS = 2  # of the teacher that are run
IMAGES = 3  # of the engine in one turn
VARIANTS = 200
RECIPE = "sd15-tiny-1step"


def measure(*, rounds: int, say: Say, device: str = "cpu") -> dict[str, Any]:
    scratch = Path(tempfile.mkdtemp(prefix="retort-sd15-"))
    try:
        say(
            "\nStable Diffusion 1.5's shape, 512 × 512, random weights. Making them (8 GB of disk) …"
        )
        teacher, student = scratch / "teacher", scratch / "student"
        make_teacher(teacher)
        make_student(student, teacher)
        return distilled.measure(
            student,
            teacher,
            rounds=rounds,
            say=say,
            steps=STEPS,
            engine_images=IMAGES,
            device=device,
            batches=(1,) if device == "cpu" else distilled.BATCHES,
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def make_student(target: Path, teacher: Path) -> None:
    """Write an untrained bundle of the recipe's student, with embeddings of VARIANTS prompt variants."""
    recipe = recipes.named(RECIPE)
    if recipe.student.cut is None or recipe.student.share != 1:
        raise ValueError(f"{RECIPE} makes another student than this: {recipe.student}")
    manifest = release.read(teacher)
    shape = UNetShape(UNet2DConditionModel.load_config(teacher, subfolder="unet"))
    config = cuts.student_shape(shape, cuts.cut_named(recipe.student.cut)).config
    torch.manual_seed(16)
    bundle.write(
        target,
        unet=UNet2DConditionModel.from_config(config),
        decoder=decoders.build(recipe.decoder, latent_channels=4),
        scheduler_config=json.loads((teacher / "scheduler/scheduler_config.json").read_text()),
        timesteps=recipe.timesteps,
        name=RECIPE,
        teacher=manifest,
        slugs=[f"variant-{number}" for number in range(VARIANTS)],
        texts=[f"text {number}" for number in range(VARIANTS)],
        prompt_embeds=torch.randn(VARIANTS, *manifest.embedding_shape).half(),
        recipe={"name": RECIPE},
        code_revision="",
    )
    gc.collect()
