"""The latents of each view equal those of the engine; an interrupted encoding continues."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from distillation.starter import latents, vae
from distillation.starter.latents import WHOLE, LatentsRecipe
from distillation.starter.photographs import Photographs
from distillation.starter.vae import VaeRecipe
from distillation.training import networks
from generation.engine.latents import image_to_latents
from tests.distillation.starter import toys

torch.set_num_threads(1)

VIEWS = LatentsRecipe(zooms=2, most_zoom=1.25, is_bf16=False)


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vae") / "vae"
    torch.manual_seed(0)
    network = vae.build(VaeRecipe(channels=(4, 8), norm_groups=2, latent_channels=2), image_size=32)
    network.register_to_config(scaling_factor=2.5)
    networks.save(network, folder)
    return folder


def encode(
    recipe: LatentsRecipe, vae_folder: Path, folder: Path, album: Photographs
) -> latents.Latents:
    latents.encode(
        recipe,
        photographs=album,
        vae_folder=vae_folder,
        folder=folder,
        split="train",
        progress_bar=False,
    )
    return latents.read(folder, "train")


def test_latents_are_the_scaled_means_with_the_combinations(
    vae_folder: Path, tmp_path: Path
) -> None:
    album = toys.photographs(5)
    found = encode(VIEWS, vae_folder, tmp_path, album)
    assert found.values.shape == (5, 4, 2, 16, 16) and found.values.dtype == torch.float16
    assert found.combinations == album.combinations
    network = networks.load(AutoencoderKL, vae_folder)
    images = album.images.float() / 127.5 - 1
    expected = image_to_latents(network, images)
    assert torch.allclose(found.values[:, 0].float(), expected, atol=2e-3)
    assert torch.allclose(
        found.values[:, 1].float(), image_to_latents(network, images.flip(-1)), atol=2e-3
    )
    assert not torch.allclose(found.values[:, 1].float(), expected, atol=2e-2)


def test_zoomed_views_are_enlarged_and_every_second_one_is_mirrored() -> None:
    slope = torch.arange(32, dtype=torch.uint8).expand(3, 32, 32) * 8
    whole, mirrored, zoomed, zoomed_mirrored = latents.make_views(
        VIEWS, slope, torch.Generator().manual_seed(5)
    )
    assert torch.equal(mirrored, whole.flip(-1))

    def slant(view: torch.Tensor) -> float:
        return view[0, 16].diff().median().item()

    assert 0 < slant(zoomed) < slant(whole)  # enlarged: the same difference over more pixels
    assert slant(zoomed_mirrored) < 0
    assert zoomed.abs().max() <= 1


def test_an_interrupted_encoding_continues(
    vae_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latents, "SHARD", 2)
    album = toys.photographs(5)
    at_once = encode(VIEWS, vae_folder, tmp_path / "at-once", album)

    folder = tmp_path / "twice"
    encode(VIEWS, vae_folder, folder, album)
    kept, lost = folder / "train-0000.safetensors", folder / "train-0001.safetensors"
    before = kept.stat().st_mtime_ns
    lost.unlink()
    again = encode(VIEWS, vae_folder, folder, album)
    assert kept.stat().st_mtime_ns == before
    assert torch.equal(again.values, at_once.values)
    assert again.combinations == album.combinations


def test_validation_has_one_view(vae_folder: Path, tmp_path: Path) -> None:
    found = encode(WHOLE, vae_folder, tmp_path, toys.photographs(3))
    assert found.values.shape[:2] == (3, 1)


def test_the_error_of_unreadable_latents_names_the_remedy(vae_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make starter"):
        latents.read(tmp_path, "train")
    encode(WHOLE, vae_folder, tmp_path, toys.photographs(2))
    (tmp_path / "train-0000.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="Delete"):
        latents.read(tmp_path, "train")
