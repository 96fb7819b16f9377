"""Training of the VAE: crops and whole images, weights of the loss, the scaling factor."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from distillation.starter import vae as vaes
from distillation.starter.vae import VaeRecipe, VaeTask, learning_rate, reconstruction_errors
from distillation.training import networks
from tests.distillation.starter import toys

torch.set_num_threads(1)

TOY = VaeRecipe(
    channels=(8, 16),
    latent_channels=2,
    norm_groups=4,
    crop=16,
    crop_steps=60,
    crop_batch=4,
    crop_learning_rate=6e-3,
    whole_steps=30,
    whole_batch=4,
    whole_learning_rate=3e-3,
    warmup=5,
    ema_decay=0.9,
    saturation_weight=0.0,  # so that the loss is the plain reconstruction error
    object_weight=1.0,
    validate_every=60,
    validated=4,
    is_bf16=False,
)

SHORT = replace(
    TOY,
    crop_steps=20,
    crop_learning_rate=1e-2,
    whole_steps=10,
    whole_learning_rate=5e-3,
    ema_decay=0.7,
    validate_every=20,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vae")
    vaes.train(
        SHORT,
        photographs=toys.photographs(12),
        validation=toys.photographs(4),
        folder=folder,
        progress_bar=False,
    )
    return folder


def curve(folder: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def task(recipe: VaeRecipe = TOY, count: int = 6) -> VaeTask:
    album = toys.photographs(count)
    return VaeTask(recipe, images=album.images, masks=album.masks, validation=album.images)


def test_training_improves_reconstruction(trained: Path) -> None:
    values = curve(trained, "validation_psnr")
    assert len(values) == 2  # in step 20 and in the last step
    assert values[-1] > 13.5  # predicting the mean of each channel gives 12.4
    losses = curve(trained, "loss")
    assert losses[-1] < 0.7 * losses[0]


def test_scaled_latents_have_a_standard_deviation_of_one(trained: Path) -> None:
    vae = networks.load(AutoencoderKL, trained / "vae")
    images = toys.photographs(12).images.float() / 127.5 - 1
    with torch.no_grad():
        latents = vae.encode(images).latent_dist.mean * vae.config.scaling_factor
    assert latents.std().item() == pytest.approx(1, abs=1e-3)
    assert vae.config.sample_size == 32


def test_the_averaged_weights_are_saved(trained: Path) -> None:
    finished = task(SHORT, count=12)
    vaes.loop.run(
        finished, trained, steps=SHORT.steps, seed=SHORT.seed, title="", progress_bar=False
    )  # all steps are done: this loads the checkpoint
    saved = networks.load(AutoencoderKL, trained / "vae").state_dict()
    averaged, last = finished.averaged.state_dict(), finished.vae.state_dict()
    assert all(torch.equal(saved[key], averaged[key]) for key in saved)
    assert not all(torch.equal(saved[key], last[key]) for key in saved)


def test_crops_come_first_then_whole_images() -> None:
    started = task()
    crops, masks = started._batch(TOY.crop_steps - 1, torch.Generator().manual_seed(0))
    assert crops.shape == (4, 3, 16, 16) and masks.shape == (4, 1, 16, 16)
    whole, masks = started._batch(TOY.crop_steps, torch.Generator().manual_seed(0))
    assert whole.shape == (4, 3, 32, 32) and masks.shape == (4, 1, 32, 32)
    assert whole.min() >= -1 and whole.max() <= 1


def test_an_image_and_its_mask_are_cropped_and_mirrored_together() -> None:
    album = toys.photographs(6)
    ramp = torch.arange(32 * 32).view(32, 32) % 251
    images = ramp.to(torch.uint8).expand(6, 3, 32, 32).clone()
    started = VaeTask(
        TOY, images=images, masks=ramp.to(torch.uint8).expand(6, 32, 32), validation=album.images
    )
    generator = torch.Generator().manual_seed(3)
    directions = set()
    for _ in range(6):
        crops, masks = started._batch(0, generator)
        assert torch.allclose((crops[:, :1] + 1) * 127.5, masks, atol=1e-3)
        directions |= {bool(row) for row in (masks[:, 0, 0, 1] > masks[:, 0, 0, 0])}
    assert directions == {True, False}


def test_saturated_and_object_pixels_have_larger_weights() -> None:
    grey, red = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    red[:, 0], red[:, 1:] = 1, -1
    ground, thing = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)

    def absolute(target: torch.Tensor, masks: torch.Tensor) -> float:
        errors = reconstruction_errors(
            target + 0.1, target, masks, saturation_weight=3.0, object_weight=2.0
        )
        return errors["absolute"].item()

    assert absolute(grey, ground) == pytest.approx(0.1)
    assert absolute(red, ground) == pytest.approx(0.4)
    assert absolute(grey, thing) == pytest.approx(0.2)


def test_a_constant_offset_has_no_gradient_error_but_a_lost_edge_has() -> None:
    masks = torch.zeros(1, 1, 4, 4)
    target = torch.zeros(1, 3, 4, 4)
    target[..., 2:] = 1
    weights = {"saturation_weight": 3.0, "object_weight": 2.0}
    shifted = reconstruction_errors(target + 0.3, target, masks, **weights)
    assert shifted["gradient"].item() == pytest.approx(0, abs=1e-6)
    flat = reconstruction_errors(torch.full_like(target, 0.5), target, masks, **weights)
    assert flat["gradient"].item() == pytest.approx(1 / 3)  # one of three differences to the right
    assert flat["squared"].item() == pytest.approx(0.25)


def test_the_kl_divergence_is_zero_for_n_0_1_and_half_a_nat_for_a_mean_of_one() -> None:
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    standard = DiagonalGaussianDistribution(torch.zeros(1, 4, 2, 2))
    assert vaes.kl_divergence(standard).item() == 0
    moments = torch.cat([torch.ones(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)], dim=1)
    assert vaes.kl_divergence(DiagonalGaussianDistribution(moments)).item() == pytest.approx(0.5)


def test_the_learning_rate_is_continuous_at_the_change_to_whole_images_and_ends_at_zero() -> None:
    rates = [learning_rate(TOY, index) for index in range(TOY.steps)]
    assert rates[0] == pytest.approx(6e-3 / 5) and max(rates) == pytest.approx(6e-3)
    assert rates[TOY.crop_steps] == pytest.approx(3e-3)
    assert abs(rates[TOY.crop_steps - 1] - rates[TOY.crop_steps]) < 5e-5
    assert rates[-1] < 1e-4
