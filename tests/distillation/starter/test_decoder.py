"""Further training of the decoder: pictures improve, latents stay the same."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from distillation.starter import decoder as decoders
from distillation.starter import latents as encoding
from distillation.starter import vae as vaes
from distillation.starter.decoder import DecoderRecipe, DecoderTask
from distillation.starter.latents import Latents, LatentsRecipe
from distillation.starter.vae import VaeRecipe, psnr_of
from distillation.training import networks
from tests.distillation.starter import toys

torch.set_num_threads(1)

TOY = DecoderRecipe(
    steps=30, batch=4, learning_rate=2e-2, warmup=2, ema_decay=0.7, validate_every=20, validated=4, is_bf16=False
)  # fmt: skip
ALBUM = toys.photographs(12)


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


def test_pictures_come_nearer_and_their_latents_stay(
    vae_folder: Path, latents: Latents, tmp_path: Path
) -> None:
    before = networks.load(AutoencoderKL, vae_folder)
    after = decoders.train(
        TOY,
        vae_folder=vae_folder,
        photographs=ALBUM,
        latents=latents,
        validation=ALBUM,
        folder=tmp_path,
        progress_bar=False,
    )
    gained = psnr_of(after, ALBUM.images, is_bf16=False) - psnr_of(
        before, ALBUM.images, is_bf16=False
    )
    assert gained > 1  # dB
    assert after.config.scaling_factor == 2.0
    for part in ("encoder", "quant_conv"):
        old, new = getattr(before, part).state_dict(), getattr(after, part).state_dict()
        assert all(torch.equal(old[name], new[name]) for name in old)


def test_images_masks_and_latents_are_mirrored_together(vae_folder: Path, latents: Latents) -> None:
    task = DecoderTask(
        replace(TOY, batch=12),
        networks.load(AutoencoderKL, vae_folder),
        photographs=ALBUM,
        latents=latents,
        validation=ALBUM,
    )
    images, masks, drawn = task._batch(torch.Generator().manual_seed(1))
    with torch.no_grad():
        means = task.vae.encode(images).latent_dist.mean * 2.0
    assert torch.allclose(means, drawn, atol=0.01)
    rises = images[:, 0, 0, -1] > images[:, 0, 0, 0]  # the slope of the ground
    assert rises.any() and not rises.all()
    assert masks.shape == (12, 1, 32, 32)


def test_latents_of_other_photographs_or_of_zooms_are_refused(
    vae_folder: Path, latents: Latents
) -> None:
    def task(of: Latents) -> DecoderTask:
        vae = networks.load(AutoencoderKL, vae_folder)
        return DecoderTask(TOY, vae, photographs=ALBUM, latents=of, validation=ALBUM)

    with pytest.raises(ValueError, match="not those of these photographs"):
        task(Latents(latents.values, latents.combinations[::-1]))
    with pytest.raises(ValueError, match="zooms=0"):
        task(Latents(latents.values.repeat(1, 2, 1, 1, 1), latents.combinations))
