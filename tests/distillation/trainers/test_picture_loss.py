"""The loss of drawn pictures: pixels and detail at several sizes, texture, and the discriminator's turn."""

from dataclasses import replace

import pytest
import torch

from distillation.trainers.decoder import DecoderRecipe
from distillation.trainers.patches import NAME, PatchesRecipe
from distillation.trainers.picture_loss import PictureLoss, picture_errors
from distillation.trainers.real_images import RealImages
from distillation.training.task import Trained

torch.set_num_threads(1)

PLAIN = DecoderRecipe(scales=2)
CPU = torch.device("cpu")
PROMPTS = torch.tensor([0, 1])


def pictures(seed: int) -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_an_even_shift_is_no_lost_detail_and_a_lost_edge_is() -> None:
    target = torch.zeros(1, 3, 8, 8)
    target[..., 4:] = 1
    shifted = picture_errors(target + 0.3, target, huber_c=1e-3, scales=3)
    assert shifted["pixels"].item() == pytest.approx(0.3, abs=2e-3)
    assert shifted["detail"].item() == pytest.approx(0, abs=1e-5)
    flat = picture_errors(torch.full_like(target, 0.5), target, huber_c=1e-3, scales=3)
    # One of 7, of 3 and of 1 differences to the right; none below; right and below are added.
    assert flat["detail"].item() == pytest.approx((1 / 7 + 1 / 3 + 1) / 3, abs=2e-3)


def test_a_coarse_error_that_no_pixel_shows_counts_at_the_coarse_scales() -> None:
    ramp = torch.linspace(0, 0.2, 64).expand(1, 3, 64, 64)
    fine, coarse = (
        picture_errors(ramp, torch.zeros_like(ramp), huber_c=0.03, scales=scales)["detail"].item()
        for scales in (1, 4)
    )
    assert coarse > 5 * fine


def test_texture_adds_its_weighted_error() -> None:
    ours, theirs = pictures(1) * 0.3, pictures(2)
    plain, _ = PictureLoss(PLAIN, Trained(), device=CPU)(0, ours, theirs, PROMPTS, generator())
    recipe = replace(PLAIN, texture_weight=2.0)
    loss, errors = PictureLoss(recipe, Trained(), device=CPU)(0, ours, theirs, PROMPTS, generator())
    assert errors["texture"] > 0
    assert loss.item() == pytest.approx((plain + 2 * errors["texture"]).item())


def test_the_discriminator_learns_first_and_counts_later() -> None:
    task = Trained()
    patches = PatchesRecipe(weight=0.5, crop=16, width=4, start_step=1, warmup_steps=2)
    loss_of = PictureLoss(replace(PLAIN, patches=patches), task, device=CPU)
    assert NAME in task.modules and NAME in task.optimizers
    is_counted, is_learning = [], []
    for index in range(4):
        loss, errors = loss_of(index, pictures(1) * 0.3, pictures(2), PROMPTS, generator())
        is_counted.append("adversarial" in errors)
        is_learning.append("discriminator" in loss_of.learn(index, generator()))
    assert is_learning == [False, True, True, True]
    assert is_counted == [False, False, False, True]
    plain, _ = PictureLoss(PLAIN, Trained(), device=CPU)(
        3, pictures(1) * 0.3, pictures(2), PROMPTS, generator()
    )
    assert loss.item() == pytest.approx((plain + 0.5 * errors["adversarial"]).item())


def test_the_discriminator_learns_from_accepted_pictures_of_the_prompts() -> None:
    accepted = RealImages(
        torch.full((1, 3, 32, 32), 255, dtype=torch.uint8),
        which=torch.tensor([0]),
        prompts=torch.tensor([1]),
    )
    theirs = pictures(2)

    def crops(share: float) -> torch.Tensor:
        patches = PatchesRecipe(crop=32, width=4, field_share=share)
        loss_of = PictureLoss(
            replace(PLAIN, patches=patches), Trained(), device=CPU, real_images=accepted
        )
        loss_of(0, pictures(1), theirs, PROMPTS, generator())
        assert loss_of._patches is not None and loss_of._patches._crops is not None
        return loss_of._patches._crops[1]

    assert crops(0).equal(theirs)
    mixed = crops(1)
    assert (mixed[PROMPTS == 1] == 1).all()
    assert mixed[PROMPTS != 1].equal(theirs[PROMPTS != 1])
