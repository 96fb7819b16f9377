"""Stable Diffusion 1.5's shape on paper: names, sizes and bytes of its bundle; and the script, with few channels."""

import json
from fractions import Fraction

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from distillation.students import cuts
from distillation.students.unets import UNetShape
from distillation.trainers import decoder
from distillation.training import networks
from generation.engine import release
from tests.distillation import checkpoint15, shape15
from tests.distillation.shape15 import NAMES, RECIPE, Parts, bundle_bytes, folder_bytes

TOY_TEXT = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}


def parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_networks_are_as_large_as_stable_diffusion_1_5s():
    found = checkpoint15.networks_of_sd15(TOY_TEXT)
    assert {name: parameters(network) for name, (network, _) in found.items()} == {
        "unet": 859_520_964,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
    }
    names = found["unet"][0].state_dict()
    assert names["down_blocks.2.attentions.1.proj_in.weight"].shape == (1280, 1280, 1, 1)
    assert names["up_blocks.3.attentions.0.transformer_blocks.0.attn2.to_k.weight"].shape == (
        320,
        768,
    )


def test_the_bundle_stays_below_340_million_bytes_with_200_prompt_variants():
    assert RECIPE.student.share == Fraction(1)
    with torch.device("meta"):
        teacher = UNet2DConditionModel(**checkpoint15.UNET)
    config = cuts.student_shape(
        UNetShape(teacher.config), cuts.cut_named(RECIPE.student.cut)
    ).config
    found = bundle_bytes(
        config,
        steps=len(RECIPE.timesteps),
        tiny=decoder.build(RECIPE.decoder, latent_channels=4),
        prompts=200,
        shape=(77, 768),
    )
    # The tiny cut has 323 million weights, 313 without the time embedding; and the scales of their channels.
    assert 313e6 < found["unet"] < 314e6
    assert sum(found.values()) < 340e6


def test_random_weights_keep_values_as_large_as_they_are():
    shapes = {
        "norm.weight": torch.Size([5]),
        "conv.bias": torch.Size([5]),
        "conv.weight": torch.Size([64, 32, 3, 3]),
    }
    weights = checkpoint15.random_weights(shapes, 0)
    assert torch.equal(weights["norm.weight"], torch.ones(5).half())
    assert torch.equal(weights["conv.bias"], torch.zeros(5).half())
    assert weights["conv.weight"].float().std().item() == pytest.approx(288**-0.5, rel=0.05)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Parts:
    """All parts done with few channels, in this process."""
    parts = Parts(tmp_path_factory.mktemp("shape15"), is_toy=True)
    for name in NAMES:
        getattr(parts, name)()
    return parts


@pytest.mark.slow
def test_every_stage_runs_a_slice_and_the_engine_makes_a_picture_of_the_bundle(finished):
    manifest = release.verify(finished.out / "bundle")
    assert (manifest.kind, manifest.parent) == ("student", "sd15-shape")
    assert len(manifest.covered_variants) == shape15.VARIANTS
    assert (finished.out / "picture.png").stat().st_size > 1000
    for name in ("decoder", "structure", "regression", "matching", "joint", "quantise"):
        line = json.loads((finished.out / name / "metrics.jsonl").read_text().splitlines()[-1])
        assert line["step"] == 1


@pytest.mark.slow
def test_the_arithmetic_of_the_bundles_bytes_is_right(finished):
    unet = networks.load(UNet2DConditionModel, finished.out / "quantise" / "unet")
    expected = bundle_bytes(
        unet.config,
        steps=len(RECIPE.timesteps),
        tiny=decoder.build(RECIPE.decoder, latent_channels=4),
        prompts=shape15.VARIANTS,
        shape=release.read(finished.out / "teacher").embedding_shape,
    )
    written = {
        name: sum(path.stat().st_size for path in (finished.out / "bundle").glob(pattern))
        for name, pattern in (
            ("unet", "unet/*.safetensors"),
            ("vae", "vae/*.safetensors"),
            ("prompt_embeds", "*.safetensors"),
        )
    }
    for name, size in expected.items():
        assert 0 <= written[name] - size < 100_000, name  # the names and shapes before the tensors
    others = folder_bytes(finished.out / "bundle") - sum(written.values())
    assert others < 100_000
