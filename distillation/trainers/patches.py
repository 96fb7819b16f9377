"""Patch discriminator, which trains a decoder to produce detail as crisp as that of real pictures.

Convolutions without norms over the pixels and their amplified differences: grain is a hundredth of a picture's range,
and a network with norms, or with the pixels alone as input, does not detect it (docs/experiments.md).
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from distillation.losses import adversarial
from distillation.training import checks
from distillation.training.task import Trained

NAME = "patches"  # of the discriminator among the networks of a task
AMPLIFIED = 20.0  # factor of pixel differences, so that grain is about as large as colours


@dataclass(frozen=True)
class PatchesRecipe:
    """weight: of the adversarial loss of the decoder. crop: side in pixels of the discriminator's crop of each picture.

    start_step: first step of the discriminator. warmup_steps: steps in which it is trained before its loss is added to
    the decoder's. r1_weight: of E‖∇D‖² at the real pictures, by noise of standard deviation r1_noise. field_share:
    share of the real pictures that are accepted ones, for prompt variants that have any; the others are the teacher's.
    """

    weight: float = 0.005
    crop: int = 128
    width: int = 32  # channels of the first layer
    learning_rate: float = 1e-3
    start_step: int = 0
    warmup_steps: int = 200
    r1_weight: float = 5e-4
    r1_noise: float = 0.005
    field_share: float = 0.5

    def __post_init__(self) -> None:
        checks.at_least_1(self, "crop", "width")
        checks.positive(self, "weight", "learning_rate", "r1_noise")
        checks.not_negative(self, "r1_weight", "start_step", "warmup_steps")
        checks.share(self, "field_share")


class Discriminator(nn.Module):
    """Logits of patches, high for real ones."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(9, width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 2 * width, 3, 1, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 1, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, 1, h/4, w/4]. images: [B, 3, h, w] in [−1, 1]."""
        right = functional.pad(images.diff(dim=3), (0, 1, 0, 0))
        below = functional.pad(images.diff(dim=2), (0, 0, 0, 1))
        return self.layers(torch.cat([images, AMPLIFIED * right, AMPLIFIED * below], 1))


class Patches:
    """Adversarial training of a decoder: its loss, and the updates of the discriminator, a network of the task."""

    def __init__(
        self, recipe: PatchesRecipe, task: Trained, *, seed: int, device: torch.device
    ) -> None:
        self.recipe = recipe
        self._task = task
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._discriminator = Discriminator(recipe.width).to(device)
        self._crops: tuple[Tensor, Tensor] | None = None  # of the last pictures: ours, real ones
        task.add(
            NAME,
            self._discriminator,
            learning_rate=recipe.learning_rate,
            weight_decay=0.0,
            betas=(0.5, 0.99),
        )

    def error(
        self, index: int, output: Tensor, real: Tensor, generator: Generator
    ) -> Tensor | None:
        """Return the decoder's adversarial error in step `index` (from 0), a scalar; None before the warm-up is over.

        output, real: [B, 3, H, W] in [−1, 1]; the same random crop of both is used. The error has no gradient in the
        discriminator.
        """
        height, width = real.shape[-2:]
        size = min(self.recipe.crop, height, width)
        top = int(torch.randint(height - size + 1, (1,), generator=generator))
        left = int(torch.randint(width - size + 1, (1,), generator=generator))
        ours, theirs = (part[..., top : top + size, left : left + size] for part in (output, real))
        self._crops = ours.detach(), theirs
        if index < self.recipe.start_step + self.recipe.warmup_steps:
            return None
        self._discriminator.requires_grad_(False)
        error = adversarial.student_loss(self._discriminator(ours))
        self._discriminator.requires_grad_(True)
        return error

    def learn(self, index: int, generator: Generator) -> dict[str, float]:
        """Update the discriminator by the crops of the last `error` and return its loss; empty before `start_step`."""
        if self._crops is None or index < self.recipe.start_step:
            return {}
        (ours, real), recipe = self._crops, self.recipe
        noise = recipe.r1_noise * torch.randn(real.shape, generator=generator).to(real)
        of_ours, of_real, of_nearby = self._discriminator(
            torch.cat([ours, real, real + noise])
        ).chunk(3)
        r1 = adversarial.approximate_r1(of_real, of_nearby)
        game = adversarial.discriminator_loss(of_ours, of_real)
        loss = game + recipe.r1_weight / recipe.r1_noise**2 * r1
        self._task.update(NAME, loss, clipped_norm=1.0)
        return {"discriminator": game.item()}
