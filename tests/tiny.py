"""Toy checkpoints and releases: real diffusers and transformers classes, fixed seeds, small enough for a CPU in tests.

Each set of weights is created once per process; folders are copies of it.
"""

import functools
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModel
from transformers.utils import logging as transformers_logging

from generation.engine import importing, release
from generation.engine.importing import Options
from generation.engine.release import ENCODER_FOLDERS, Manifest

transformers_logging.disable_progress_bar()
torch.set_num_threads(1)  # tests run in parallel; threads that compete for the cores take minutes

WIDTH = 32  # of the embeddings
TOKENS = 77
WORDS = (  # one token each
    "a an on red orange yellow green blue purple white black clay glass metal plastic wooden marble linen "
    "table slab cloth vase bowl mug bottle ball cube cone ring"
)
# The scheduler configuration of Stable Diffusion 1.5.
PNDM_CONFIG = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
# The attention of the VAE is named so in the files of Stable Diffusion 1.5; diffusers renames it while loading.
OLD_NAMES = {
    ".to_q.": ".query.",
    ".to_k.": ".key.",
    ".to_v.": ".value.",
    ".to_out.0.": ".proj_attn.",
}


# --- Stable Diffusion 1.5, small ------------------------------------------------------------------
def make_sd15_folder(path: Path, *, fp16: bool = True) -> Path:
    """Write a diffusers folder with the file and key layout of Stable Diffusion 1.5. fp16: with those variants too."""
    shutil.copytree(_sd15(), path)
    if not fp16:
        for file in path.rglob("*.fp16.safetensors"):
            file.unlink()
    return path


def sd15_unet_config() -> dict[str, Any]:
    """As Stable Diffusion 1.5's, with fewer channels."""
    return {
        "sample_size": 8,
        "block_out_channels": (8, 16, 32, 32),
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
    }


def sd15_vae_config() -> dict[str, Any]:
    return {
        "block_out_channels": (8, 16, 32, 32),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "norm_num_groups": 4,
        "sample_size": 64,
        "scaling_factor": 0.18215,
    }


@functools.cache
def _sd15() -> Path:
    folder = _scratch("sd15")
    torch.manual_seed(15)
    _write_json(
        folder / "model_index.json",
        {
            "_class_name": "StableDiffusionPipeline",
            "_diffusers_version": "0.6.0",
            "safety_checker": [None, None],
            "scheduler": ["diffusers", "PNDMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )
    _write_json(folder / "scheduler/scheduler_config.json", PNDM_CONFIG)
    UNet2DConditionModel(**sd15_unet_config()).save_pretrained(folder / "unet")
    AutoencoderKL(**sd15_vae_config()).save_pretrained(folder / "vae")
    _save_encoder(folder, layers=12)
    vae = folder / "vae/diffusion_pytorch_model.safetensors"
    save_file({_old_name(key): value for key, value in load_file(vae).items()}, vae)
    text_encoder = folder / "text_encoder/model.safetensors"
    positions = {"text_model.embeddings.position_ids": torch.arange(TOKENS)[None]}
    # transformers 5 writes the names without the prefix that Stable Diffusion 1.5 has.
    prefixed = {
        f"text_model.{key.removeprefix('text_model.')}": value
        for key, value in load_file(text_encoder).items()
    }
    save_file({**prefixed, **positions}, text_encoder, {"format": "pt"})
    for file in list(folder.rglob("*.safetensors")):
        half = {
            key: value.half() if value.is_floating_point() else value
            for key, value in load_file(file).items()
        }
        save_file(half, file.with_name(f"{file.stem}.fp16.safetensors"), {"format": "pt"})
    return folder


def _old_name(key: str) -> str:
    for new, old in OLD_NAMES.items():
        key = key.replace(new, old)
    return key


# --- the smallest release that generates ----------------------------------------------------------
def make_tiny_release(
    path: Path,
    *,
    name: str = "tiny",
    kind: str = "teacher",
    parent: str | None = None,
    steps: int = 4,
    guidance_scale: float = 1.0,
    noise_scheduler: str = "ddim",
    prediction_type: str = "epsilon",
    zero_snr: bool = False,
    timesteps: Sequence[int] | None = None,
    image_size: int | tuple[int, int] = 64,
    has_encoder: bool = True,
    seed: int = 0,
) -> Manifest:
    """Write a complete release into the new folder `path`: a few ms per step on a CPU. seed: of the weights."""
    path = Path(path)
    cached = _release(seed, steps, guidance_scale, noise_scheduler, prediction_type, zero_snr)
    shutil.copytree(cached, path)
    manifest = release.read(path)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if not has_encoder:
        for folder in ENCODER_FOLDERS:
            shutil.rmtree(path / folder)
    visited = list(timesteps) if timesteps is not None else manifest.timesteps
    manifest = replace(
        manifest,
        name=name,
        kind=kind,
        parent=parent,
        image_sizes=[size],
        timesteps=visited,
        num_inference_steps=len(visited),
        has_encoder=has_encoder,
        files=[
            file
            for file in manifest.files
            if has_encoder or not file.path.startswith(ENCODER_FOLDERS)
        ],
    )
    release.write(path, manifest)
    return manifest


@functools.cache
def _release(
    seed: int,
    steps: int,
    guidance_scale: float,
    noise_scheduler: str,
    prediction_type: str,
    zero_snr: bool,
) -> Path:
    source = _scratch("source")
    shutil.copytree(_components(seed), source, dirs_exist_ok=True)
    config = {
        **PNDM_CONFIG,
        "prediction_type": prediction_type,
        "rescale_betas_zero_snr": zero_snr,
        "timestep_spacing": "trailing",
    }
    _write_json(source / "scheduler/scheduler_config.json", config)
    target = _scratch("release") / "release"
    options = Options(steps=steps, guidance_scale=guidance_scale, noise_scheduler=noise_scheduler)
    importing.import_folder(source, target, name="tiny", options=options)
    return target


@functools.cache
def _components(seed: int) -> Path:
    folder = _scratch("components")
    _write_json(folder / "model_index.json", {"_class_name": "StableDiffusionPipeline"})
    torch.manual_seed(1)  # one encoder for all of them
    _save_encoder(folder, layers=1)
    torch.manual_seed(1000 + seed)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=64,
        mid_block_add_attention=False,
    )
    with torch.no_grad():
        # The outputs of random networks are small: otherwise every picture would be nearly grey, whatever the prompt.
        vae.decoder.conv_out.weight *= 1.5
        for name, weight in unet.named_parameters():
            if "attn2" in name:
                weight *= 4
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    return folder


# --- the text encoder of both ---------------------------------------------------------------------
def _save_encoder(folder: Path, *, layers: int) -> None:
    vocabulary = _save_tokenizer(folder / "tokenizer")
    config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=vocabulary["<|startoftext|>"],
        eos_token_id=vocabulary["<|endoftext|>"],
        pad_token_id=1,
    )
    text_encoder = CLIPTextModel(config)
    with torch.no_grad():
        for name, weight in text_encoder.named_parameters():
            if "embedding" in name:
                weight.normal_()  # with the usual 0.02 all words would be nearly the same
    text_encoder.save_pretrained(folder / "text_encoder")


def _save_tokenizer(folder: Path) -> dict[str, int]:
    """vocab.json, merges.txt and the two configurations, as Stable Diffusion 1.5 has them. WORDS are one token each."""
    letters = _byte_letters()
    tokens = letters + [f"{letter}</w>" for letter in letters]
    merges: list[str] = []
    for word in WORDS.split():
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            merge = f"{pieces[0]} {pieces[1]}"
            pieces[:2] = [pieces[0] + pieces[1]]
            if merge not in merges:
                merges.append(merge)
            if pieces[0] not in tokens:
                tokens.append(pieces[0])
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    _write_json(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    special |= {"pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(
        folder / "tokenizer_config.json",
        {**special, "model_max_length": TOKENS, "tokenizer_class": "CLIPTokenizer"},
    )
    return vocabulary


def _byte_letters() -> list[str]:
    """One printable letter per byte, as GPT-2 and CLIP name them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    letters |= {byte: chr(256 + index) for index, byte in enumerate(others)}
    return [letters[byte] for byte in [*printable, *others]]


def _scratch(name: str) -> Path:
    holder = tempfile.TemporaryDirectory(prefix=f"tiny-{name}-")
    _holders.append(holder)
    return Path(holder.name)


_holders: list[tempfile.TemporaryDirectory] = []  # removed when the process ends


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
