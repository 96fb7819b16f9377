"""Training of the teacher towards its guided prediction."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from distillation.starter import teacher
from distillation.starter.guided import GuidedRecipe, GuidedTask
from distillation.training import loop, networks
from tests.distillation.starter import toys
from tests.distillation.starter.test_teacher import TOY, album

torch.set_num_threads(1)


def recipe(**changes: float) -> GuidedRecipe:
    return GuidedRecipe(**{**asdict(TOY), "learning_rate": 1e-3, "guidance": 3.5, **changes})


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """Two networks of different weights."""
    conditions = teacher.read_conditions(toys.clip_folder(), toys.tokenizer_folder())
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        unet = teacher.build(TOY, latent_channels=2, latent_size=8, text_width=conditions.width)
        found.append(tmp_path_factory.mktemp("unet"))
        networks.save(unet, found[-1])
    return found[0], found[1]


def task(folders: tuple[Path, Path], made: GuidedRecipe) -> GuidedTask:
    return GuidedTask(
        made,
        latents=album(20),
        validation=album(6, views=1),
        conditions=teacher.read_conditions(toys.clip_folder(), toys.tokenizer_folder()),
        teacher=folders[0],
        weak=folders[1],
    )


def test_training_begins_with_the_teacher_whose_guidance_is_one(folders):
    assert task(folders, recipe(guidance=1.0)).step(14, torch.Generator())["loss"] < 1e-9


def test_the_target_is_extrapolated_from_the_weak_network_through_the_teacher(folders):
    made = task(folders, recipe(guidance=3.0))
    noisy, embeds = torch.randn(2, 2, 8, 8), torch.randn(2, 77, toys.TEXT_WIDTH)
    timesteps = torch.tensor([10, 999])
    strong, weak = (
        networks.load(UNet2DConditionModel, folder)(noisy, timesteps, embeds).sample
        for folder in folders
    )

    target = made._target(torch.zeros(()), noisy, timesteps, embeds)

    assert torch.allclose(target, weak + 3 * (strong - weak), atol=1e-4)


def test_training_comes_nearer_to_the_guided_prediction(folders, tmp_path):
    made = task(folders, recipe(steps=60))
    before = made._validate()

    loop.run(made, tmp_path, steps=60, seed=3, title="", progress_bar=False)

    assert made._validate() < before / 2
