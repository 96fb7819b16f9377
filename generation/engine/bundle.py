"""Writer of a trained student as a release: folded, int8 or fp16, with a small decoder and its prompt embeddings.

A bundle is self-contained: no text encoder, no teacher. `docs/release-format.md` describes its files.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor

from generation.engine import folding, quantization, release, sampling
from generation.engine.classes import FOLDED_UNET, SHUFFLED_VAE, TINY_VAE
from generation.engine.errors import ReleaseInvalid
from generation.engine.latents import pixels_per_latent
from generation.engine.networks import WEIGHTS, write_json
from generation.engine.release import PROMPT_EMBEDS, Manifest

QUANTIZATION = "int8"


def write(
    target: Path,
    *,
    unet: UNet2DConditionModel,
    decoder: AutoencoderTiny,
    scheduler_config: Mapping[str, Any],
    timesteps: Sequence[int],
    name: str,
    teacher: Manifest,
    slugs: Sequence[str],
    texts: Sequence[str],
    prompt_embeds: Tensor,
    recipe: Mapping[str, Any],
    code_revision: str,
    evaluation: Mapping[str, Any] | None = None,
    is_quantised: bool = True,
) -> Manifest:
    """Write the new folder `target`, atomically.

    scheduler_config: the teacher's; timesteps: descending, of the student's steps; prompt_embeds: fp16
    [prompts, tokens, width] of `slugs` and `texts`; is_quantised: the U-Net is stored as int8, else as fp16. Raises
    ReleaseInvalid, which names the field, for parts that do not match and for weights outside the range of fp16.
    """
    target = Path(target)
    if target.exists():
        raise ReleaseInvalid(f"{target} already exists. Give another name, or remove it.")
    steps = [int(timestep) for timestep in timesteps]
    config = {
        **scheduler_config,
        "set_alpha_to_one": True,
    }  # the last step ends at clean latents
    _check_timesteps(config, steps, teacher)
    check_networks(unet.config, decoder, teacher)
    _check_prompts(slugs, texts, prompt_embeds, teacher)
    folded = folding.fold(unet, steps)
    tensors = quantization.quantise(folded) if is_quantised else _as_fp16(folded, part="unet")
    weights = {
        key: value for key, value in decoder.state_dict().items() if key.startswith("decoder.")
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".bundling-", dir=target.parent) as temporary:
        folder = Path(temporary) / name
        _write_network(folder / "unet", FOLDED_UNET, unet.config, tensors)
        vae_class = TINY_VAE if decoder.config.out_channels == 3 else SHUFFLED_VAE
        _write_network(folder / "vae", vae_class, decoder.config, _as_fp16(weights, part="vae"))
        write_json(folder / "scheduler" / "scheduler_config.json", config)
        _save(
            folder / PROMPT_EMBEDS,
            {"prompt_embeds": prompt_embeds},
            {"texts": json.dumps(list(texts), ensure_ascii=False)},
        )
        manifest = Manifest(
            format_version=release.FORMAT_VERSION,
            name=name,
            kind="student",
            parent=teacher.name,
            recipe=dict(recipe),
            code_revision=code_revision,
            prediction_type=teacher.prediction_type,
            noise_scheduler="ddim",
            timesteps=steps,
            num_inference_steps=len(steps),
            guidance_scale=1.0,
            encoder_fingerprint=teacher.encoder_fingerprint,
            has_encoder=False,
            max_tokens=teacher.max_tokens,
            embedding_shape=teacher.embedding_shape,
            weight_dtype=QUANTIZATION if is_quantised else "float16",
            quantization=QUANTIZATION if is_quantised else None,
            image_sizes=list(teacher.image_sizes),
            covered_variants=list(slugs),
            files=release.list_files(folder),
            evaluation=None if evaluation is None else dict(evaluation),
        )
        release.write(folder, manifest)
        release.verify(folder)
        folder.rename(target)
    return manifest


# --- consistency checks ---------------------------------------------------------------------------
def _check_timesteps(config: Mapping[str, Any], steps: list[int], teacher: Manifest) -> None:
    predicts = config.get("prediction_type", "epsilon")
    if predicts != teacher.prediction_type:
        raise ReleaseInvalid(
            f"prediction_type: the scheduler configuration has {predicts}, the teacher {teacher.prediction_type}."
        )
    sampling.check("ddim", dict(config), steps)


def check_networks(config: Mapping[str, Any], decoder: AutoencoderTiny, teacher: Manifest) -> None:
    """Raise ReleaseInvalid, naming the field, if `write` would refuse a student of this configuration and decoder."""
    folding.check(config)
    width = teacher.embedding_shape[1]
    if config["cross_attention_dim"] != width:
        raise ReleaseInvalid(
            f"cross_attention_dim: the student's embeddings have {config['cross_attention_dim']} values, "
            f"those of the teacher's text encoder {width}."
        )
    channels = decoder.config.latent_channels
    for field in ("in_channels", "out_channels"):
        if config[field] != channels:
            raise ReleaseInvalid(
                f"latent_channels: the decoder has {channels}, the student's {field} is {config[field]}."
            )
    if decoder.config.upsampling_scaling_factor != 2:
        raise ReleaseInvalid(
            f"upsampling_scaling_factor must be 2, not {decoder.config.upsampling_scaling_factor}."
        )
    factor = pixels_per_latent(decoder.config)
    size = config["sample_size"] * factor
    if not any(size in sizes for sizes in teacher.image_sizes):
        raise ReleaseInvalid(
            f"image_sizes: latents of size {config['sample_size']} give images of size {size} with this decoder "
            f"({factor} pixels per latent), but the teacher's sizes are {teacher.image_sizes}."
        )


def _check_prompts(
    slugs: Sequence[str], texts: Sequence[str], prompt_embeds: Tensor, teacher: Manifest
) -> None:
    if not slugs or len(set(slugs)) != len(slugs):
        raise ReleaseInvalid("slugs: give at least one prompt variant, without duplicates.")
    if len(texts) != len(slugs):
        raise ReleaseInvalid(f"texts: {len(texts)} for {len(slugs)} prompt variants.")
    expected = (len(slugs), *teacher.embedding_shape)
    if prompt_embeds.dtype != torch.float16 or tuple(prompt_embeds.shape) != expected:
        raise ReleaseInvalid(
            f"prompt_embeds must be float16 {expected}, not {prompt_embeds.dtype} {tuple(prompt_embeds.shape)}."
        )
    quantization.require_fp16("prompt_embeds", prompt_embeds)


# --- files ----------------------------------------------------------------------------------------
def _as_fp16(tensors: Mapping[str, Tensor], *, part: str) -> dict[str, Tensor]:
    for name, tensor in tensors.items():
        quantization.require_fp16(f"{part}: {name}", tensor)
    return {name: tensor.detach().to("cpu", torch.float16) for name, tensor in tensors.items()}


def _write_network(
    folder: Path, class_name: str, config: Mapping[str, Any], tensors: dict[str, Tensor]
) -> None:
    plain = {key: value for key, value in config.items() if not key.startswith("_")}
    facts = {"_class_name": class_name, "_diffusers_version": diffusers.__version__}
    write_json(folder / "config.json", {**facts, **plain})
    _save(folder / WEIGHTS, tensors, {"format": "pt"})


def _save(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata)
    path.chmod(0o644)  # safetensors sets 0600
