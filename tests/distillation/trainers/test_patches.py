"""The discriminator of patches detects grain, and trains a decoder without being trained by it."""

import torch

from distillation.trainers.patches import NAME, Discriminator, Patches, PatchesRecipe
from distillation.training.task import Trained

torch.set_num_threads(1)


def smooth(generator: torch.Generator) -> torch.Tensor:
    """Return pictures of one colour each, [4, 3, 32, 32]."""
    return (torch.rand(4, 3, 1, 1, generator=generator) - 0.5).expand(4, 3, 32, 32).clone()


def make_patches(**changes: float) -> tuple[Patches, Trained]:
    task = Trained()
    recipe = PatchesRecipe(crop=16, width=8, learning_rate=5e-3, warmup_steps=0, **changes)
    return Patches(recipe, task, seed=0, device=torch.device("cpu")), task


def test_the_discriminator_learns_to_detect_grain_of_a_fiftieth_of_the_range() -> None:
    patches, _ = make_patches()
    generator = torch.Generator().manual_seed(0)
    losses = []
    for index in range(60):
        real = smooth(generator)
        real += 0.02 * torch.randn(real.shape, generator=generator)
        patches.error(index, smooth(generator), real, generator)
        losses.append(patches.learn(index, generator)["discriminator"])
    assert losses[0] > 1.3  # 2 log 2: undecided
    assert losses[-1] < 0.7


def test_the_error_of_the_decoder_leaves_the_discriminator_as_it_is() -> None:
    patches, task = make_patches()
    ours = torch.zeros(1, 3, 32, 32, requires_grad=True)
    error = patches.error(0, ours, torch.ones(1, 3, 32, 32), torch.Generator().manual_seed(0))
    assert error is not None
    error.backward()
    assert ours.grad is not None and ours.grad.abs().sum() > 0
    parameters = list(task.modules[NAME].parameters())
    assert all(part.grad is None for part in parameters)
    assert all(part.requires_grad for part in parameters)


def test_both_pictures_are_cropped_at_one_place() -> None:
    patches, _ = make_patches()
    picture = torch.rand(1, 3, 32, 32)
    patches.error(0, picture, picture, torch.Generator().manual_seed(3))
    assert patches._crops is not None
    ours, real = patches._crops
    assert ours.shape == (1, 3, 16, 16) and torch.equal(ours, real)


def test_the_discriminator_returns_a_logit_per_patch() -> None:
    assert Discriminator(8)(torch.zeros(2, 3, 32, 32)).shape == (2, 1, 8, 8)
