"""Import of diffusers folders as releases."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTokenizer
from transformers.models.clip.modeling_clip import CLIPTextModel

from generation.engine import importing, networks, pipeline, release
from generation.engine.errors import ReleaseInvalid
from generation.engine.importing import Options
from generation.engine.prompts import encoder as encoders
from generation.engine.prompts import tokens
from generation.engine.request import GenerationRequest
from tests import tiny

UNET = "unet/diffusion_pytorch_model"
# Stable Diffusion 1.5's configurations, and how many tensors its files hold.
SD15_UNET = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
}
SD15_VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "norm_num_groups": 32,
}
SD15_TEXT_ENCODER = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
}
SD15_TENSORS = {"unet": 686, "vae": 248, "text_encoder": 196}
# Names of tensors copied from the headers of its files, one for each kind of place.
SD15_NAMES = {
    "unet": {
        "conv_in.weight",
        "time_embedding.linear_1.weight",
        "down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_out.0.bias",
        "down_blocks.2.attentions.0.proj_in.weight",
        "down_blocks.3.resnets.1.time_emb_proj.weight",
        "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj.weight",
        "up_blocks.1.resnets.2.conv_shortcut.weight",
        "up_blocks.3.attentions.2.transformer_blocks.0.norm3.bias",
        "conv_norm_out.weight",
    },
    "vae": {
        "quant_conv.weight",
        "post_quant_conv.bias",
        "encoder.down_blocks.0.downsamplers.0.conv.weight",
        "encoder.mid_block.attentions.0.query.weight",
        "decoder.mid_block.attentions.0.proj_attn.bias",
        "decoder.up_blocks.3.resnets.2.norm2.weight",
    },
    "text_encoder": {
        "text_model.embeddings.position_ids",
        "text_model.embeddings.token_embedding.weight",
        "text_model.encoder.layers.11.mlp.fc2.bias",
        "text_model.final_layer_norm.weight",
    },
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tiny.make_sd15_folder(tmp_path / "sd15")


def import_as_release(source: Path, **options: Any) -> tuple[Path, release.Manifest]:
    target = source.parent / "imported"
    return target, importing.import_folder(source, target, name="sd15", options=Options(**options))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# --- the toy has the layout of Stable Diffusion 1.5 -----------------------------------------------
@pytest.mark.parametrize(
    ("folder", "base", "make"),
    [
        ("unet", UNET, lambda: UNet2DConditionModel(**SD15_UNET)),
        ("vae", "vae/diffusion_pytorch_model", lambda: AutoencoderKL(**SD15_VAE)),
        (
            "text_encoder",
            "text_encoder/model",
            lambda: CLIPTextModel(CLIPTextConfig(**SD15_TEXT_ENCODER)),
        ),
    ],
)
def test_the_toy_checkpoint_has_the_key_layout_of_stable_diffusion_15(
    source: Path, folder: str, base: str, make: Callable[[], torch.nn.Module]
) -> None:
    with torch.device("meta"):
        real = make().state_dict()
    names = {tiny._old_name(name) if folder == "vae" else name for name in real}
    if folder == "text_encoder":
        names = {f"text_model.{name.removeprefix('text_model.')}" for name in names}
        names.discard("text_model.embeddings.position_ids")
    assert len(names) == SD15_TENSORS[folder]
    for variant in ("", ".fp16"):
        found = set(load_file(source / f"{base}{variant}.safetensors"))
        assert SD15_NAMES[folder] <= found
        assert found - {"text_model.embeddings.position_ids"} == names


# --- import ---------------------------------------------------------------------------------------
def test_a_stable_diffusion_folder_becomes_a_teacher_that_generates(source: Path) -> None:
    target, manifest = import_as_release(source)
    assert release.verify(target) == manifest
    assert (manifest.kind, manifest.parent, manifest.has_encoder) == ("teacher", None, True)
    assert (manifest.prediction_type, manifest.noise_scheduler) == ("epsilon", "ddim")
    assert (manifest.num_inference_steps, manifest.guidance_scale) == (30, 7.5)
    assert (manifest.timesteps[0], manifest.timesteps[-1]) == (958, 1)
    assert (manifest.max_tokens, manifest.embedding_shape) == (77, (77, 32))
    assert manifest.image_sizes == [(64, 64)]
    assert manifest.encoder_fingerprint == release.encoder_fingerprint(target)
    embedding = encoders.load(target).encode(["a red vase"])[0]
    loaded = pipeline.load(target, device="cpu")
    result = loaded.generate([GenerationRequest(embedding, 1, 64, 64)])[0]
    assert result.pixels is not None
    assert result.pixels.std() > 1


def test_the_weights_are_imported_under_their_new_names(source: Path) -> None:
    target, _ = import_as_release(source)
    vae = AutoencoderKL.from_pretrained(target / "vae", torch_dtype=torch.float32)
    old = load_file(source / "vae/diffusion_pytorch_model.safetensors")
    new = vae.state_dict()
    assert {tiny._old_name(name) for name in new} == set(old)
    for name, value in new.items():
        expected = old[tiny._old_name(name)].reshape(value.shape)
        assert torch.allclose(value, expected, atol=1e-3), name


@pytest.mark.parametrize("prefix", ["text_model.", ""])
def test_the_text_encoder_is_imported_completely_with_either_prefix(
    source: Path, prefix: str
) -> None:
    for path in (source / "text_encoder").glob("*.safetensors"):
        weights = {
            f"{prefix}{name.removeprefix('text_model.')}": value
            for name, value in load_file(path).items()
        }
        save_file(weights, path, {"format": "pt"})
    target, _ = import_as_release(source)
    found = encoders.load(target)._text_encoder.state_dict()
    expected = {
        name.removeprefix("text_model."): value
        for name, value in load_file(source / "text_encoder/model.safetensors").items()
        if not name.endswith("position_ids")
    }
    assert len(expected) == SD15_TENSORS["text_encoder"]
    for name, value in found.items():
        key = name.removeprefix("text_model.")
        if key in expected:
            assert torch.allclose(value, expected.pop(key), atol=4e-3), name
    assert not expected


def test_options_are_written_into_the_manifest(source: Path) -> None:
    _, manifest = import_as_release(
        source,
        steps=8,
        guidance_scale=1.0,
        noise_scheduler="euler",
        image_sizes=((64, 64), (96, 64)),
        kind="student",
    )
    assert (manifest.kind, manifest.noise_scheduler) == ("student", "euler")
    assert (manifest.num_inference_steps, manifest.guidance_scale) == (8, 1.0)
    assert manifest.image_sizes == [(64, 64), (96, 64)]


def test_v_prediction_is_read_from_the_scheduler(source: Path) -> None:
    edit(source / "scheduler/scheduler_config.json", prediction_type="v_prediction")
    assert import_as_release(source)[1].prediction_type == "v_prediction"


def test_the_fp16_variant_is_preferred_and_loses_its_suffix(source: Path) -> None:
    target, manifest = import_as_release(source)
    assert manifest.weight_dtype == "float16"
    assert (target / f"{UNET}.safetensors").read_bytes() == (
        source / f"{UNET}.fp16.safetensors"
    ).read_bytes()
    assert not list(target.rglob("*fp16*"))


def test_without_variants_the_plain_weights_are_imported(tmp_path: Path) -> None:
    source = tiny.make_sd15_folder(tmp_path / "plain", fp16=False)
    target, manifest = import_as_release(source)
    assert manifest.weight_dtype == "float32"
    pipeline.load(target, device="cpu")


@pytest.mark.parametrize("variant", [pytest.param("", marks=pytest.mark.slow), ".fp16"])
def test_sharded_weights_are_imported_with_their_index(source: Path, variant: str) -> None:
    weights = load_file(source / f"{UNET}{variant}.safetensors")
    for path in (source / "unet").glob("*.safetensors"):
        path.unlink()
    names = sorted(weights)
    shards = [names[:300], names[300:]]
    weight_map = {}
    for number, part in enumerate(shards, start=1):
        file = f"diffusion_pytorch_model{variant}-0000{number}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, source / "unet" / file)
        weight_map |= dict.fromkeys(part, file)
    index = source / f"{UNET}.safetensors.index{variant}.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    target, manifest = import_as_release(source)
    assert len([file for file in manifest.files if "-of-00002" in file.path]) == 2
    for unet in (
        networks.load_stock(UNet2DConditionModel, target / "unet", torch.float32),
        UNet2DConditionModel.from_pretrained(target / "unet", use_safetensors=True),
    ):
        for name, value in unet.state_dict().items():
            assert torch.allclose(value, weights[name].float(), atol=1e-3)


def test_nothing_else_of_the_folder_is_imported(source: Path) -> None:
    for folder in ("safety_checker", "feature_extractor"):
        (source / folder).mkdir()
        (source / folder / "pytorch_model.bin").write_bytes(b"pickle")
    (source / "v1-5-pruned.ckpt").write_bytes(b"pickle")
    (source / "unet/diffusion_pytorch_model.bin").write_bytes(b"pickle")
    target, _ = import_as_release(source)
    assert {path.name for path in target.iterdir()} == {
        "model_index.json",
        "negative_prompt_embeds.safetensors",
        "release.json",
        "scheduler",
        "text_encoder",
        "tokenizer",
        "unet",
        "vae",
    }
    assert not [path for path in target.rglob("*") if path.suffix in release.PICKLES]


def test_the_tokenizer_is_made_readable_without_transformers(source: Path) -> None:
    assert not (source / "tokenizer/tokenizer.json").exists()
    target, _ = import_as_release(source)
    assert tokens.count_tokens(target, "a red vase") == 5


def test_texts_are_padded_as_by_transformers(source: Path) -> None:
    """As in Stable Diffusion 2, whose two files differ."""
    for name, token in (("special_tokens_map", "!"), ("tokenizer_config", "<|endoftext|>")):
        path = source / "tokenizer" / f"{name}.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        known.pop("added_tokens_decoder", None)
        path.write_text(json.dumps({**known, "pad_token": token}))
    expected = CLIPTokenizer.from_pretrained(source / "tokenizer").pad_token_id
    target, _ = import_as_release(source)
    assert tokens.pad_token_id(target) == expected
    assert expected != tokens.load_tokenizer(target).token_to_id("<|endoftext|>")


@pytest.mark.parametrize("name", ["lcm", "tcd"])
def test_distilled_networks_start_at_the_noise_level_of_their_scheduler(
    source: Path, name: str
) -> None:
    _, manifest = import_as_release(source, noise_scheduler=name, steps=4, guidance_scale=1.0)
    assert manifest.timesteps == [999, 759, 499, 259]


def test_diffusers_loads_a_release_whose_source_had_a_safety_checker(source: Path) -> None:
    edit(
        source / "model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPImageProcessor"],
        requires_safety_checker=True,
    )
    target, _ = import_as_release(source)
    stock = StableDiffusionPipeline.from_pretrained(target, local_files_only=True)
    assert stock.safety_checker is None


def test_the_empty_text_is_stored_for_guidance(source: Path) -> None:
    target, _ = import_as_release(source)
    stored = load_file(target / "negative_prompt_embeds.safetensors")["negative_prompt_embeds"]
    assert (stored.shape, stored.dtype) == ((77, 32), torch.float16)
    embedding = encoders.load(target).encode([""])[0]
    assert stored.numpy().astype("<f2").tobytes() == embedding.data
    assert np.isfinite(stored.numpy()).all()


def test_links_of_a_download_cache_become_files(source: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for number, path in enumerate([path for path in source.rglob("*") if path.is_file()]):
        path.rename(blobs / str(number))
        path.symlink_to(blobs / str(number))
    target, _ = import_as_release(source)
    assert not [path for path in target.rglob("*") if path.is_symlink()]


# --- refusals -------------------------------------------------------------------------------------
@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_a_component_that_is_only_a_pickle_is_refused_with_advice(
    source: Path, component: str
) -> None:
    for path in (source / component).glob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))
    with pytest.raises(ReleaseInvalid, match=r"only as a pickle.*safe_serialization=True"):
        import_as_release(source)
    assert not (source.parent / "imported").exists()


def drop_one_weight(folder: Path) -> None:
    for path in folder.glob("*.safetensors"):
        weights = load_file(path)
        del weights[sorted(weights)[0]]
        save_file(weights, path, {"format": "pt"})


def test_a_text_encoder_that_lacks_a_weight_is_refused(source: Path) -> None:
    drop_one_weight(source / "text_encoder")
    with pytest.raises(ReleaseInvalid, match="weights lack"):
        import_as_release(source)


@pytest.mark.parametrize("component", ["unet", pytest.param("vae", marks=pytest.mark.slow)])
def test_a_network_that_lacks_a_weight_is_not_loaded(source: Path, component: str) -> None:
    drop_one_weight(source / component)
    target, _ = import_as_release(source)
    with pytest.raises(ReleaseInvalid):
        pipeline.load(target, device="cpu")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / "model_index.json").unlink(), "from_single_file"),
        (
            lambda folder: edit(folder / "model_index.json", _class_name="FluxPipeline"),
            "is a FluxPipeline",
        ),
        (lambda folder: edit(folder / "unet/config.json", in_channels=9), "inpainting"),
        (lambda folder: shutil.rmtree(folder / "vae"), r"config\.json is missing"),
        (lambda folder: shutil.rmtree(folder / "tokenizer"), "not a valid CLIP tokenizer"),
        (lambda folder: (folder / "scheduler/scheduler_config.json").unlink(), "is missing"),
        (lambda folder: (folder / "unet/config.json").write_text("{"), "cannot be read"),
        (
            lambda folder: [path.unlink() for path in (folder / "unet").glob("*.safetensors")],
            r"has no diffusion_pytorch_model\.safetensors",
        ),
    ],
)
def test_an_incomplete_stable_diffusion_folder_is_refused(
    source: Path, break_it: Callable[[Path], Any], message: str
) -> None:
    break_it(source)
    with pytest.raises(ReleaseInvalid, match=message):
        import_as_release(source)
    assert [path.name for path in source.parent.iterdir()] == [source.name]


def test_an_index_cannot_reach_outside_its_folder(source: Path) -> None:
    for path in (source / "unet").glob("*.safetensors"):
        path.unlink()
    index = source / f"{UNET}.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"conv_in.weight": "../../secret.safetensors"}}))
    with pytest.raises(ReleaseInvalid, match="outside its folder"):
        import_as_release(source)


def test_an_existing_folder_is_never_overwritten(source: Path) -> None:
    target, _ = import_as_release(source)
    before = (target / "release.json").read_bytes()
    with pytest.raises(ReleaseInvalid, match="already exists"):
        import_as_release(source)
    assert (target / "release.json").read_bytes() == before
