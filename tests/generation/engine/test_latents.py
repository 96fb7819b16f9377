"""Latents of images: encoding, scaling, shift, decoding."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from generation.engine import latents as conversions
from generation.engine.errors import ReleaseInvalid
from tests.generation.engine import toys


@pytest.fixture(scope="module")
def vae(tiny_release: Path) -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(tiny_release / "vae").requires_grad_(False)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_latents_are_the_mean_times_the_scaling_factor(
    vae: AutoencoderKL, images: torch.Tensor
) -> None:
    assert vae.config.scaling_factor == 0.18215
    found = conversions.image_to_latents(vae, images)
    assert found.shape == (2, 4, 8, 8)
    assert torch.allclose(found, vae.encode(images).latent_dist.mean * 0.18215, atol=1e-6)


def test_images_are_decoded_from_latents_divided_by_the_scaling_factor(vae: AutoencoderKL) -> None:
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    found = conversions.latents_to_image(vae, latents)
    assert found.shape == (2, 3, 64, 64)
    expected = vae.decode(latents / 0.18215).sample.clamp(-1, 1)
    assert torch.allclose(found, expected, atol=1e-5)
    assert found.abs().max() <= 1


def test_a_shift_is_undone_in_both_directions(tiny_release: Path, images: torch.Tensor) -> None:
    shifted = AutoencoderKL.from_pretrained(tiny_release / "vae", shift_factor=0.5)
    shifted.requires_grad_(False)
    mean = shifted.encode(images).latent_dist.mean
    latents = conversions.image_to_latents(shifted, images)
    assert torch.allclose(latents, (mean - 0.5) * 0.18215, atol=1e-6)
    expected = shifted.decode(mean).sample.clamp(-1, 1)
    assert torch.allclose(conversions.latents_to_image(shifted, latents), expected, atol=1e-4)


def test_every_byte_survives_the_conversion_to_minus_one_to_one_and_back() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    images = conversions.from_pixels(pixels)
    assert images.shape == (1, 3, 16, 16)
    assert (float(images.min()), float(images.max())) == (-1.0, 1.0)
    assert np.array_equal(conversions.to_pixels(images), pixels)


def test_channels_beyond_three_are_the_pixels_of_a_block() -> None:
    vae = toys.decoder(levels=2, shuffle=4)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    channels = vae.decode(latents).sample.clamp(-1, 1)
    assert channels.shape == (2, 48, 16, 16)
    image = conversions.latents_to_image(vae, latents)
    assert image.shape == (2, 3, 64, 64)
    assert torch.allclose(image[0, 1, 4 * 5 + 2, 4 * 7 + 3], channels[0, 16 + 4 * 2 + 3, 5, 7])


@pytest.mark.parametrize(("levels", "shuffle"), [(4, 1), (3, 2), (2, 4), (1, 8)])
def test_levels_and_shuffle_both_make_a_latent_larger(levels: int, shuffle: int) -> None:
    config = toys.decoder(levels=levels, shuffle=shuffle).config
    assert conversions.pixels_per_latent(config) == 8


@pytest.mark.parametrize("channels", [1, 4, 24])
def test_a_decoder_with_other_channels_is_refused(channels: int) -> None:
    with pytest.raises(ReleaseInvalid, match=f"out_channels is {channels}"):
        conversions.as_images(torch.zeros(1, channels, 8, 8))
