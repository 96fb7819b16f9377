"""Export of a bundle as a plain diffusers folder."""

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from generation.engine import exporting, folding, release
from generation.engine import pipeline as pipelines
from generation.engine.errors import ReleaseInvalid
from generation.engine.request import GenerationRequest, StoredEmbedding
from tests import tiny
from tests.generation.engine import toys
from tests.generation.engine.conftest import TEXTS

RequestFor = Callable[..., GenerationRequest]


def stock_pictures(folder: Path, seeds: Sequence[int], steps: int, guidance: float) -> np.ndarray:
    """Return pictures of TEXTS, made by stock diffusers from the exported folder alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stock = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    stock.set_progress_bar_config(disable=True)
    noise = [torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return stock(
        prompt=list(TEXTS[: len(seeds)]),
        latents=torch.stack(noise),
        num_inference_steps=steps,
        guidance_scale=guidance,
        output_type="np",
    ).images


def worst(folder: Path, exported: Path, requests: list[GenerationRequest]) -> float:
    """Return the largest difference, out of 255, between the engine's pictures and stock diffusers'."""
    loaded = pipelines.load(folder, device="cpu", dtype="float32")
    manifest = loaded.manifest
    found = np.stack([result.pixels for result in loaded.generate(requests)])
    expected = stock_pictures(
        exported,
        [request.seed for request in requests],
        manifest.num_inference_steps,
        manifest.guidance_scale,
    )
    assert expected.std() > 0.05
    return float(np.abs(found - expected * 255).max())


@pytest.mark.parametrize(
    ("timesteps", "prediction_type"),
    [
        pytest.param((999,), "epsilon", marks=pytest.mark.slow),
        ((999,), "v_prediction"),  # pure noise, with zero terminal SNR
        pytest.param((625,), "epsilon", marks=pytest.mark.slow),
        pytest.param((999, 499), "v_prediction", marks=pytest.mark.slow),
        ((749, 249), "v_prediction"),
        ((999, 700, 31), "epsilon"),
    ],
)
def test_stock_diffusers_makes_a_students_pictures_from_the_exported_folder(
    tmp_path: Path,
    request_for: RequestFor,
    embeddings: list[StoredEmbedding],
    prediction_type: str,
    timesteps: tuple[int, ...],
) -> None:
    is_zero_snr = prediction_type == "v_prediction"
    tiny.make_tiny_release(
        tmp_path / "teacher", prediction_type=prediction_type, zero_snr=is_zero_snr
    )
    toys.write_student(tmp_path / "student", tmp_path / "teacher", embeddings, timesteps=timesteps)
    exporting.export(tmp_path / "student", tmp_path / "stock", encoder_dir=tmp_path / "teacher")
    requests = [request_for(number) for number in range(3)]
    assert worst(tmp_path / "student", tmp_path / "stock", requests) <= 4


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_stock_diffusers_makes_a_teachers_pictures_from_the_exported_folder(
    tmp_path: Path, request_for: RequestFor, guidance_scale: float
) -> None:
    tiny.make_tiny_release(tmp_path / "teacher", guidance_scale=guidance_scale)
    exporting.export(tmp_path / "teacher", tmp_path / "stock")
    requests = [request_for(number) for number in range(2)]
    assert worst(tmp_path / "teacher", tmp_path / "stock", requests) <= 4


def test_the_folder_is_plain_fp16_with_an_encoder_of_zeros(
    tmp_path: Path, tiny_release: Path, embeddings: list[StoredEmbedding]
) -> None:
    toys.write_student(tmp_path / "student", tiny_release, embeddings)
    exporting.export(tmp_path / "student", tmp_path / "new/stock", encoder_dir=tiny_release)
    folder = tmp_path / "new/stock"
    for path in folder.rglob("*.safetensors"):
        kinds = {tensor.dtype for tensor in load_file(path).values() if tensor.is_floating_point()}
        assert kinds == {torch.float16}, path
    vae = load_file(folder / "vae/diffusion_pytorch_model.safetensors")
    assert all(tensor.eq(0).all() for name, tensor in vae.items() if name.startswith("encoder."))
    assert "encoder is all zeros" in (folder / "README.md").read_text()
    assert not (folder / "release.json").exists()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["stock"]


def test_a_decoder_that_diffusers_cannot_run_is_replaced_by_the_teachers_vae(
    tmp_path: Path, tiny_release: Path, embeddings: list[StoredEmbedding]
) -> None:
    vae = toys.decoder(levels=2, shuffle=4)
    toys.write_student(tmp_path / "student", tiny_release, embeddings, decoder=vae)
    exporting.export(tmp_path / "student", tmp_path / "stock", encoder_dir=tiny_release)
    found = StableDiffusionPipeline.from_pretrained(tmp_path / "stock").vae
    assert type(found).__name__ == "AutoencoderKL"
    weights = load_file(tiny_release / "vae/diffusion_pytorch_model.safetensors")
    assert all(
        torch.equal(tensor.half(), found.state_dict()[name].half())
        for name, tensor in weights.items()
    )
    assert "the teacher's" in (tmp_path / "stock/README.md").read_text()


@pytest.mark.parametrize("timesteps", [[999], [1, 0], [999, 500, 499]])
def test_an_unfolded_network_gives_its_biases_at_its_timesteps(timesteps: list[int]) -> None:
    unet = toys.student_unet("base")
    tensors = folding.fold(unet, timesteps)
    again = folding.fold(folding.unfold(unet.config, tensors, timesteps), timesteps)
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.allclose(again[name], tensor, atol=2e-5), name


def test_a_missing_or_different_encoder_is_refused(
    tmp_path: Path, tiny_release: Path, embeddings: list[StoredEmbedding]
) -> None:
    toys.write_student(tmp_path / "student", tiny_release, embeddings)
    with pytest.raises(ReleaseInvalid, match="Give the folder of its teach"):
        exporting.export(tmp_path / "student", tmp_path / "stock")
    tiny.make_sd15_folder(tmp_path / "other")
    with pytest.raises(ReleaseInvalid, match="has the fingerprint"):
        exporting.export(tmp_path / "student", tmp_path / "stock", encoder_dir=tmp_path / "other")
    assert not (tmp_path / "stock").exists()


def test_timesteps_of_a_teacher_that_stock_diffusers_cannot_visit_are_refused(
    tmp_path: Path,
) -> None:
    tiny.make_tiny_release(tmp_path / "teacher", timesteps=[999, 600, 31])
    with pytest.raises(ReleaseInvalid, match="DDIMScheduler cannot use the timesteps"):
        exporting.export(tmp_path / "teacher", tmp_path / "stock")
    assert not [path for path in tmp_path.iterdir() if path.name != "teacher"]


def test_a_damaged_release_is_not_exported(tmp_path: Path) -> None:
    tiny.make_tiny_release(tmp_path / "teacher")
    manifest = release.read(tmp_path / "teacher")
    (tmp_path / "teacher/unet/diffusion_pytorch_model.safetensors").write_bytes(b"x")
    with pytest.raises(ReleaseInvalid, match="changed or is incomplete"):
        exporting.export(tmp_path / "teacher", tmp_path / "stock")
    files = release.list_files(tmp_path / "teacher")
    release.write(tmp_path / "teacher", replace(manifest, files=files))
    with pytest.raises(ReleaseInvalid):
        exporting.export(tmp_path / "teacher", tmp_path / "stock")
    assert json.loads((tmp_path / "teacher/release.json").read_text())["name"] == "tiny"
