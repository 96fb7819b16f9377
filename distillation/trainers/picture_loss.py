"""Loss of decoded pictures against the teacher's: pixels, detail, texture, and a patch discriminator.

The stages decoder and joint share it.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from distillation.losses.pairs import pseudo_huber
from distillation.losses.texture import texture_error
from distillation.trainers.patches import Patches, PatchesRecipe
from distillation.trainers.real_images import RealImages
from distillation.training import checks
from distillation.training.task import Trained, TrainingRecipe


@dataclass(frozen=True, kw_only=True)
class PictureLossRecipe(TrainingRecipe):
    """Weights of the parts of the loss; that of pixels is 1. weight_decay: of the optimizer.

    texture_weight: of `losses.texture`; patches: None trains without the discriminator. Without both, the decoder
    smooths detail that the latents do not contain.
    """

    weight_decay: float = 0.0
    huber_c: float = 0.03  # of values in [−1, 1]: smaller errors count by their squares
    detail_weight: float = 1.0  # of differences between neighbouring pixels, at `scales` sizes
    scales: int = 3  # each half as large as the one before
    texture_weight: float = 0.0
    patches: PatchesRecipe | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least_1(self, "scales")
        checks.positive(self, "huber_c")
        checks.not_negative(self, "weight_decay", "detail_weight", "texture_weight")


class PictureLoss:
    """The loss in the steps of a training; the discriminator is one of the task's networks."""

    def __init__(
        self,
        recipe: PictureLossRecipe,
        task: Trained,
        *,
        device: torch.device,
        real_images: RealImages | None = None,
    ) -> None:
        """real_images: accepted pictures, for the discriminator."""
        self._recipe = recipe
        self._real_images = real_images
        self._patches = (
            Patches(recipe.patches, task, seed=recipe.seed, device=device)
            if recipe.patches is not None
            else None
        )

    def __call__(
        self, index: int, output: Tensor, target: Tensor, prompts: Tensor, generator: Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of step `index`, and its parts by name.

        output, target: fp32 [B, 3, H, W] in [−1, 1]; prompts: int64 [B], rows of the catalogue.
        """
        recipe = self._recipe
        errors = picture_errors(output, target, huber_c=recipe.huber_c, scales=recipe.scales)
        loss = errors["pixels"] + recipe.detail_weight * errors["detail"]
        if recipe.texture_weight:
            errors["texture"] = texture_error(output, target)
            loss = loss + recipe.texture_weight * errors["texture"]
        if self._patches is not None:
            real = self._real(target, prompts, generator)
            error = self._patches.error(index, output, real, generator)
            if error is not None:
                errors["adversarial"] = error
                loss = loss + self._patches.recipe.weight * error
        return loss, errors

    def _real(self, target: Tensor, prompts: Tensor, generator: Generator) -> Tensor:
        """Return the discriminator's real pictures: the targets, some replaced by accepted ones of the same prompts."""
        patches = self._recipe.patches
        if self._real_images is None or patches is None:
            return target
        return self._real_images.mixed_into(
            target, prompts, share=patches.field_share, generator=generator
        )

    def learn(self, index: int, generator: Generator) -> dict[str, float]:
        """Update the discriminator by the pictures of this step and return its loss; empty without an update."""
        return {} if self._patches is None else self._patches.learn(index, generator)


def picture_errors(
    output: Tensor, target: Tensor, *, huber_c: float, scales: int
) -> dict[str, Tensor]:
    """Return pixels: pseudo-Huber of the values; detail: that of the differences to the next pixel, right and below.

    A pixel loss alone tolerates blurred edges. Both are means over `scales` sizes: the pictures, their halves, quarters
    …, because most of the error of a decoder without norms is in the colour of whole areas. output, target:
    [B, 3, H, W] in [−1, 1].
    """
    values, details = [], []
    ours, theirs = output, target
    for scale in range(scales):
        if scale:
            ours, theirs = (nn.functional.avg_pool2d(part, 2) for part in (ours, theirs))
        values.append(pseudo_huber(ours, theirs, c=huber_c))
        for side in (2, 3):
            details.append(pseudo_huber(ours.diff(dim=side), theirs.diff(dim=side), c=huber_c))
    return {
        "pixels": torch.stack(values).mean(),
        "detail": 2 * torch.stack(details).mean(),
    }
