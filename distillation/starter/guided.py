"""Train the teacher towards its own guided prediction, so that it needs no guidance when it samples.

Autoguidance (Karras et al. 2024, arXiv 2406.02507) moves a prediction away from that of a weaker network of the same
kind, which makes the same errors more often. The weaker network here is a teacher of fewer steps. As in guidance
distillation (Meng et al. 2023, arXiv 2210.03142) one network learns the guided prediction, at half the cost per step.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from distillation.starter.latents import Latents
from distillation.starter.teacher import (
    Conditions,
    TeacherRecipe,
    TeacherTask,
    read_conditions,
    run,
)
from distillation.training import checks, networks


@dataclass(frozen=True)
class GuidedRecipe(TeacherRecipe):
    """The target is v_weak + guidance · (v_teacher − v_weak); guidance 1 is the teacher itself."""

    guidance: float = 3.5
    steps: int = 600
    learning_rate: float = 2e-4
    warmup: int = 50
    falling: float = 0.6
    ema_decay: float = 0.99
    empty_captions: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.positive(self, "guidance")


class GuidedTask(TeacherTask):
    """Training task that begins with the teacher's weights, for `distillation.training.loop`."""

    def __init__(
        self,
        recipe: GuidedRecipe,
        *,
        latents: Latents,
        validation: Latents,
        conditions: Conditions,
        teacher: Path,
        weak: Path,
    ) -> None:
        """teacher, weak: folders of the two frozen networks."""
        self._teacher, self._weak = _frozen(teacher), _frozen(weak)
        self._guidance = recipe.guidance
        super().__init__(
            recipe,
            latents=latents,
            validation=validation,
            conditions=conditions,
            unet=networks.load(UNet2DConditionModel, teacher).requires_grad_().train(),
        )

    @torch.no_grad()
    def _target(self, v: Tensor, noisy: Tensor, timesteps: Tensor, embeds: Tensor) -> Tensor:
        weak = self._predict(self._weak, noisy, timesteps, embeds)
        return weak.lerp(self._predict(self._teacher, noisy, timesteps, embeds), self._guidance)


def train(
    recipe: GuidedRecipe,
    *,
    latents: Latents,
    validation: Latents,
    clip_folder: Path,
    tokenizer_folder: Path,
    teacher: Path,
    weak: Path,
    folder: Path,
    progress_bar: bool,
) -> UNet2DConditionModel:
    """Train, resuming from the folder's checkpoint; save and return the U-Net with averaged weights, fp32.

    Writes folder/unet and folder/scheduler. teacher, weak: folders of U-Nets.
    """
    task = GuidedTask(
        recipe,
        latents=latents,
        validation=validation,
        conditions=read_conditions(clip_folder, tokenizer_folder),
        teacher=teacher,
        weak=weak,
    )
    return run(task, recipe, folder=folder, title="guided teacher", progress_bar=progress_bar)


def _frozen(folder: Path) -> UNet2DConditionModel:
    unet = networks.load(UNet2DConditionModel, folder)
    unet.set_attn_processor(AttnProcessor2_0())  # fused: faster without a backward pass
    return unet
