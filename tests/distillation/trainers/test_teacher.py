"""The teacher in training predicts what stock diffusers' pipeline predicts, and unsuitable folders are refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from safetensors.torch import load_file, save_file

from distillation.trainers import teacher as teachers
from distillation.trainers.schedule import CLEAN
from distillation.trainers.teacher import Teacher
from distillation.training.errors import TeacherRefused
from generation.engine import importing, release
from generation.engine.errors import ReleaseInvalid
from generation.engine.importing import Options
from tests.tiny import TOKENS, WIDTH, make_sd15_folder, make_tiny_release

GUIDANCE = 3.0
STEPS = 4


def in_fp32(teacher: Teacher) -> Teacher:
    return dataclasses.replace(teacher, is_bf16=False)


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "release"
    make_tiny_release(
        folder, guidance_scale=GUIDANCE, prediction_type="v_prediction", zero_snr=True
    )
    return folder


@pytest.fixture(scope="module")
def teacher(folder) -> Teacher:
    return in_fp32(teachers.load(folder, device="cpu"))


@pytest.fixture
def broken(folder, tmp_path) -> Path:
    """A copy of the release, for a test to break."""
    return Path(shutil.copytree(folder, tmp_path / "release"))


# --- predictions ----------------------------------------------------------------------------------
def test_the_teacher_has_the_fields_of_its_release(teacher, folder):
    manifest = release.read(folder)
    assert teacher.manifest == manifest
    assert teacher.guidance_scale == GUIDANCE
    assert teacher.timesteps == tuple(manifest.timesteps) == (999, 749, 499, 249)
    assert teacher.latent_shape == (4, 8, 8)
    assert teacher.schedule.prediction_type == "v_prediction"
    assert teacher.schedule.alphas[-1] == 0
    assert teacher.negative is not None and teacher.negative.shape == (1, TOKENS, WIDTH)


def test_the_networks_are_frozen_and_in_fp32(teacher):
    for network in (teacher.unet, teacher.vae):
        assert not network.training
        for parameter in network.parameters():
            assert not parameter.requires_grad and parameter.dtype == torch.float32


def test_a_guided_prediction_is_two_passes_combined(teacher):
    latents, embeds = drawn(2, 4, 8, 8, seed=0), drawn(2, TOKENS, WIDTH, seed=1)
    timesteps = torch.tensor([999, 300])
    passes = [
        teacher.unet(latents, timesteps, encoder_hidden_states=text).sample
        for text in (teacher.negative.expand(2, -1, -1), embeds)
    ]
    expected = passes[0] + 5.0 * (passes[1] - passes[0])
    found = teacher.predict(latents, timesteps, embeds, guidance_scale=5.0)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert found.dtype == torch.float32 and not found.requires_grad
    alone = teacher.predict(latents, timesteps, embeds, guidance_scale=1)
    assert torch.allclose(alone, passes[1], atol=1e-5)
    own = teacher.predict(latents, timesteps, embeds)
    assert torch.allclose(own, passes[0] + GUIDANCE * (passes[1] - passes[0]), atol=1e-4)
    assert (own - alone).abs().max() > 1e-3
    for scale in (1.0, 5.0):
        expected = teacher.predict(latents, timesteps, embeds, guidance_scale=scale)
        guided = teacher.guide(alone, latents, timesteps, guidance_scale=scale)
        assert torch.allclose(guided, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("prediction_type", "zero_snr"),
    [("epsilon", False), ("v_prediction", True)],
)
def test_the_solutions_are_those_of_stock_diffusers(tmp_path, prediction_type, zero_snr):
    make_tiny_release(
        tmp_path / "release",
        guidance_scale=GUIDANCE,
        prediction_type=prediction_type,
        zero_snr=zero_snr,
        steps=STEPS,
    )
    teacher = in_fp32(teachers.load(tmp_path / "release", device="cpu"))
    noise, embeds = drawn(2, 4, 8, 8, seed=0), drawn(2, TOKENS, WIDTH, seed=1)
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(tmp_path / "release/vae"),
        text_encoder=None,
        tokenizer=None,
        unet=UNet2DConditionModel.from_pretrained(tmp_path / "release/unet"),
        scheduler=DDIMScheduler.from_pretrained(
            tmp_path / "release/scheduler", clip_sample=False, set_alpha_to_one=True
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    options = {
        "prompt_embeds": embeds,
        "negative_prompt_embeds": teacher.negative.expand(2, -1, -1),
        "latents": noise,
        "guidance_scale": GUIDANCE,
        "num_inference_steps": STEPS,
    }
    expected = pipeline(**options, output_type="latent").images

    latents = noise
    for timestep, following in zip(teacher.timesteps, (*teacher.timesteps[1:], CLEAN), strict=True):
        at = torch.full((2,), timestep)
        prediction = teacher.predict(latents, at, embeds)
        latents = teacher.schedule.stepped(prediction, latents, at, torch.full_like(at, following))
    # Ours are the coefficients of fp64, diffusers' of fp32.
    assert torch.allclose(latents, expected, rtol=1e-3, atol=1e-3)

    pictures = pipeline(**options, output_type="pt").images * 2 - 1
    assert torch.allclose(teacher.decode(expected), pictures, atol=1e-3)
    assert pictures.std() > 0.05


def test_pictures_are_decoded_a_few_at_a_time(teacher, monkeypatch):
    latents = drawn(5, 4, 8, 8, seed=0)
    together = teacher.decode(latents)
    monkeypatch.setattr(teachers, "DECODED_PIXELS", 2 * 64 * 64)
    sizes = []
    handle = teacher.vae.decoder.register_forward_hook(
        lambda _module, given, _output: sizes.append(len(given[0]))
    )
    assert torch.allclose(teacher.decode(latents), together, atol=1e-5)
    handle.remove()
    assert sizes == [2, 2, 1]


def test_attention_of_large_latents_does_not_store_its_matrix(teacher):
    assert isinstance(teacher.attention_processor(), AttnProcessor)
    manifest = dataclasses.replace(teacher.manifest, image_sizes=[(512, 512)])
    large = dataclasses.replace(teacher, manifest=manifest)
    assert large.latent_shape == (4, 64, 64)
    assert isinstance(large.attention_processor(), AttnProcessor2_0)


def test_bf16_passes_stay_near_those_in_fp32(teacher):
    latents, embeds = drawn(2, 4, 8, 8, seed=0), drawn(2, TOKENS, WIDTH, seed=1)
    timesteps = torch.tensor([999, 300])
    exact = teacher.predict(latents, timesteps, embeds)
    rough = dataclasses.replace(teacher, is_bf16=True).predict(latents, timesteps, embeds)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).square().mean().sqrt() < 0.15 * exact.std()


def test_a_teacher_of_fp16_files_is_loaded_in_fp32(tmp_path):
    """The layout, names and storage of Stable Diffusion 1.5's own files."""
    importing.import_folder(
        make_sd15_folder(tmp_path / "sd15"),
        tmp_path / "release",
        name="sd15",
        options=Options(steps=2),
    )
    teacher = in_fp32(teachers.load(tmp_path / "release", device="cpu"))
    assert teacher.schedule.prediction_type == "epsilon"
    assert next(teacher.unet.parameters()).dtype == torch.float32
    output = teacher.predict(
        drawn(1, 4, 8, 8, seed=0), torch.tensor([625]), drawn(1, TOKENS, WIDTH, seed=1)
    )
    assert output.isfinite().all() and output.std() > 0


# --- refusals -------------------------------------------------------------------------------------
def refusal(folder: Path) -> str:
    with pytest.raises(TeacherRefused) as caught:
        teachers.load(folder, device="cpu")
    return str(caught.value)


def test_a_teacher_whose_release_has_no_guidance_cannot_be_guided(tmp_path):
    make_tiny_release(tmp_path / "release", guidance_scale=1.0)
    teacher = teachers.load(tmp_path / "release", device="cpu")
    assert teacher.negative is None
    latents, embeds = drawn(1, 4, 8, 8, seed=0), drawn(1, TOKENS, WIDTH, seed=1)
    assert teacher.predict(latents, torch.tensor([9]), embeds).shape == latents.shape
    with pytest.raises(TeacherRefused, match=r"guidance_scale 1.*--guidance"):
        teacher.predict(latents, torch.tensor([9]), embeds, guidance_scale=2.0)


def test_a_student_is_refused_with_the_name_of_its_teacher(tmp_path):
    make_tiny_release(tmp_path / "release", name="small", kind="student", parent="large")
    assert "small is a student" in (message := refusal(tmp_path / "release"))
    assert "large" in message


def test_a_folder_without_a_manifest_is_refused_with_how_to_register_it(tmp_path):
    message = refusal(make_sd15_folder(tmp_path / "sd15"))
    assert "release.json" in message and "release register" in message


@pytest.mark.parametrize(
    "path",
    [
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
        release.NEGATIVE_EMBEDS,
    ],
)
def test_a_missing_file_is_named(broken, path):
    (broken / path).unlink()
    assert path in refusal(broken)


@pytest.mark.parametrize("path", ["unet/diffusion_pytorch_model.safetensors", "vae/config.json"])
def test_an_altered_file_is_named(broken, path):
    data = bytearray((broken / path).read_bytes())
    data[-2] ^= 1
    (broken / path).write_bytes(data)
    assert path in refusal(broken)


def test_a_pickle_is_refused_by_its_name(broken):
    (broken / "unet/diffusion_pytorch_model.bin").write_bytes(b"\x80\x04.")
    message = refusal(broken)
    assert "unet/diffusion_pytorch_model.bin" in message and "safetensors only" in message


def test_weights_that_lack_a_tensor_are_refused_by_its_name(broken):
    """Otherwise it would stay random, and the student would learn from that."""
    path = broken / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors.pop("conv_out.bias")
    save_file(tensors, path, {"format": "pt"})
    rewrite_manifest(broken)
    message = refusal(broken)
    assert "unet" in message and "conv_out.bias" in message


def test_weights_of_another_shape_are_refused(broken):
    path = broken / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["conv_in.weight"] = torch.zeros(16, 9, 3, 3)
    save_file(tensors, path, {"format": "pt"})
    rewrite_manifest(broken)
    assert "conv_in.weight" in refusal(broken)


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_weights_that_are_not_finite_are_refused(broken, part):
    """Otherwise the first training would report that its learning rate is too high."""
    path = broken / part / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    name = next(iter(tensors))
    tensors[name].view(-1)[0] = float("nan")
    save_file(tensors, path, {"format": "pt"})
    rewrite_manifest(broken)
    assert name in refusal(broken)


def rewrite_manifest(folder: Path) -> None:
    """Write the manifest for the files as they are now."""
    manifest = release.read(folder)
    release.write(folder, dataclasses.replace(manifest, files=release.list_files(folder)))


@pytest.mark.parametrize(
    ("file", "fields", "named"),
    [
        (
            "model_index.json",
            {"_class_name": "StableDiffusionXLPipeline"},
            r"is a StableDiffusionXLPipeline.*Stable Diffusion 1\.x and 2\.x",
        ),
        ("unet/config.json", {"in_channels": 9}, r"9 input channels.*inpainting"),
    ],
)
def test_a_checkpoint_of_another_kind_never_becomes_a_teacher(tmp_path, file, fields, named):
    source = make_sd15_folder(tmp_path / "sd15")
    content = json.loads((source / file).read_text())
    (source / file).write_text(json.dumps({**content, **fields}))
    with pytest.raises(ReleaseInvalid, match=named) as caught:
        importing.import_folder(source, tmp_path / "release", name="sd15")
    assert str(source) in str(caught.value)


def test_a_missing_device_is_refused(folder):
    with pytest.raises(TeacherRefused, match="cuda:99"):
        teachers.load(folder, device="cuda:99")
