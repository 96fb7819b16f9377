"""Adding a level to the VAE and training its decoder: images of twice the size, the same latents."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from distillation.detector.network import as_float
from distillation.starter import decoder as decoders
from distillation.starter import growing
from distillation.starter import latents as encoding
from distillation.starter import vae as vaes
from distillation.starter.decoder import DecoderRecipe, DecoderTask
from distillation.starter.growing import EncoderRecipe
from distillation.starter.latents import Latents, LatentsRecipe
from distillation.starter.vae import VaeRecipe, psnr_of
from distillation.trainers.patches import PatchesRecipe
from distillation.training import networks
from tests.distillation.starter import toys

torch.set_num_threads(1)

TOY = DecoderRecipe(
    steps=30, batch=4, crop=32, whole_batch=4, learning_rate=1e-2, warmup=2, ema_decay=0.7, validate_every=20,
    validated=4, is_bf16=False, patches=PatchesRecipe(width=4, crop=16, start_step=5, warmup_steps=5),
    encoder=EncoderRecipe(steps=150, batch=4, crop=32),
)  # fmt: skip
ALBUM = toys.photographs(12, size=64)  # twice the sample size of the VAE


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vae")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = vaes.build(
            VaeRecipe(channels=(8, 16), latent_channels=2, norm_groups=4, crop=16), image_size=32
        )
    vae.register_to_config(scaling_factor=2.0)
    networks.save(vae, folder / "vae")
    return folder / "vae"


@pytest.fixture(scope="module")
def latents(vae_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Latents:
    folder = tmp_path_factory.mktemp("latents")
    encoding.encode(
        LatentsRecipe(zooms=0, is_bf16=False),
        photographs=ALBUM,
        vae_folder=vae_folder,
        folder=folder,
        split="train",
        progress_bar=False,
    )
    return encoding.read(folder, "train")


def task_of(vae_folder: Path, latents: Latents, recipe: DecoderRecipe = TOY) -> DecoderTask:
    return DecoderTask(
        recipe,
        growing.grown(networks.load(AutoencoderKL, vae_folder)),
        photographs=ALBUM,
        latents=latents,
        validation=ALBUM,
        validation_latents=latents,
    )


def test_before_training_the_larger_vae_decodes_the_same_image_at_twice_the_size(
    vae_folder: Path,
) -> None:
    smaller = networks.load(AutoencoderKL, vae_folder)
    larger = growing.grown(smaller)
    latents = torch.randn(2, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = smaller.decode(latents).sample, larger.decode(latents).sample
    assert after.shape == (2, 3, 64, 64) and larger.config.sample_size == 64
    assert larger.config.scaling_factor == 2.0
    halved = torch.nn.functional.avg_pool2d(after, 2)
    # They differ only by the last convolution, whose input now has repeated pixels.
    assert torch.corrcoef(torch.stack([halved.flatten(), before.flatten()]))[0, 1] > 0.8


def test_training_improves_reconstruction_and_matches_the_latents_of_half_size_images(
    vae_folder: Path, latents: Latents, tmp_path: Path
) -> None:
    before = growing.grown(networks.load(AutoencoderKL, vae_folder))
    after = decoders.train(
        TOY,
        vae_folder=vae_folder,
        photographs=ALBUM,
        latents=latents,
        validation=ALBUM,
        validation_latents=latents,
        folder=tmp_path,
        progress_bar=False,
    )
    images = as_float(ALBUM.images)
    with torch.no_grad():
        encoded = [vae.encode(images).latent_dist.mean * 2.0 for vae in (before, after)]
    target = latents.values[:, 0].float()
    errors = [(found - target).square().mean() / target.var() for found in encoded]
    assert errors[1] < 0.1 and errors[1] < 0.2 * errors[0]
    assert psnr_of(after, ALBUM.images, is_bf16=False) > psnr_of(
        before, ALBUM.images, is_bf16=False
    )
    assert after.config.scaling_factor == 2.0
    old, new = before.encoder.state_dict(), after.encoder.state_dict()
    kept = [name for name in old if not name.startswith(("conv_in", "down_blocks.0"))]
    assert all(torch.equal(old[name], new[name]) for name in kept)


def test_crops_and_whole_images_are_mirrored_together_with_masks_and_latents(
    vae_folder: Path, latents: Latents
) -> None:
    task = task_of(vae_folder, latents, replace(TOY, whole_batch=12))
    images, masks, drawn = task._batch(TOY.steps - 1, torch.Generator().manual_seed(1))
    smaller = networks.load(AutoencoderKL, vae_folder)
    with torch.no_grad():
        halved = torch.nn.functional.avg_pool2d(images, 2)
        means = smaller.encode(halved).latent_dist.mean * 2.0
    assert torch.allclose(means, drawn, atol=0.05)
    rises = images[:, 0, 0, -1] > images[:, 0, 0, 0]  # the slope of the ground
    assert rises.any() and not rises.all()
    assert masks.shape == (12, 1, 64, 64)

    images, masks, drawn = task._batch(0, torch.Generator().manual_seed(1))
    assert images.shape == (4, 3, 32, 32) and masks.shape == (4, 1, 32, 32)
    assert drawn.shape == (4, 2, 8, 8)


def test_latents_of_other_photographs_or_of_zooms_are_refused(
    vae_folder: Path, latents: Latents
) -> None:
    with pytest.raises(ValueError, match="not those of these photographs"):
        task_of(vae_folder, Latents(latents.values, latents.combinations[::-1]))
    with pytest.raises(ValueError, match="zooms=0"):
        task_of(vae_folder, Latents(latents.values.repeat(1, 2, 1, 1, 1), latents.combinations))
