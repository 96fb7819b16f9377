"""Folding of a student for its fixed timesteps."""

from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from generation.engine import folding
from generation.engine.errors import ReleaseInvalid
from generation.engine.student import FoldedUNet
from tests import tiny
from tests.generation.engine import toys


def latents(rows: int, *size: int) -> torch.Tensor:
    return torch.randn((rows, 4, *size), generator=torch.Generator().manual_seed(1))


def prompts(rows: int) -> torch.Tensor:
    shape = (rows, tiny.TOKENS, tiny.WIDTH)
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def difference(unet: UNet2DConditionModel, timesteps: list[int], size: tuple[int, int]) -> float:
    """Return the largest difference, over all steps, between the folded and the unfolded network."""
    folded = FoldedUNet(unet.config, folding.fold(unet, timesteps)).eval()
    values, embeds = latents(2, *size), prompts(2)
    keyvalues = torch.stack([folded.keyvalues(row) for row in embeds])
    worst = 0.0
    for step, timestep in enumerate(timesteps):
        with torch.inference_mode():
            expected = unet(values, timestep, encoder_hidden_states=embeds).sample
            found = folded(values, step, keyvalues)
        assert expected.abs().max() > 0.1
        worst = max(worst, float((found - expected).abs().max()))
    return worst


@pytest.mark.parametrize("cut", ["base", "small", "tiny"])
@pytest.mark.parametrize("timesteps", [[999], [749, 249]])
def test_a_folded_student_computes_the_same_as_the_unfolded_one(
    cut: str, timesteps: list[int]
) -> None:
    assert difference(toys.student_unet(cut, is_loud=False), timesteps, (8, 8)) < 1e-5


def test_an_uncut_teacher_can_be_folded_too() -> None:
    assert difference(toys.teacher_unet(is_loud=False), [999, 499], (8, 8)) < 1e-5


@pytest.mark.parametrize(
    "changes",
    [
        {"use_linear_projection": True},
        {"transformer_layers_per_block": 2},
        {"flip_sin_to_cos": False, "freq_shift": 1},
        {"upcast_attention": True},  # Stable Diffusion 2.1
        *(
            pytest.param(changes, marks=pytest.mark.slow)
            for changes in (
                {"attention_head_dim": (2, 4, 8, 8)},
                {"time_embedding_act_fn": "silu"},
                {"in_channels": 4, "norm_eps": 1e-3, "norm_num_groups": 2},
                {"time_embedding_dim": 24, "dropout": 0.5},
                {"upcast_attention": None},  # converted from a single file
            )
        ),
    ],
)
def test_variants_of_the_configuration_compute_the_same_when_folded(
    changes: dict[str, Any],
) -> None:
    torch.manual_seed(6)
    unet = UNet2DConditionModel(**{**tiny.sd15_unet_config(), **changes}).requires_grad_(False)
    assert difference(unet.eval(), [999, 1], (8, 8)) < 1e-5


def test_images_need_not_be_square_nor_even() -> None:
    assert difference(toys.student_unet("base", is_loud=False), [999], (9, 14)) < 1e-5


def test_each_step_has_its_own_biases() -> None:
    unet = toys.student_unet()
    folded = FoldedUNet(unet.config, folding.fold(unet, [999, 1])).eval()
    keyvalues = folded.keyvalues(prompts(1)[0])[None]
    first, second = (folded(latents(1, 8, 8), step, keyvalues) for step in (0, 1))
    assert (first - second).abs().max() > 1e-3


def test_no_tensor_of_the_time_embedding_is_left() -> None:
    unet = toys.student_unet()
    tensors = folding.fold(unet, [999, 499])
    assert not [name for name in tensors if "time_emb" in name]
    assert tensors["down_blocks.0.resnets.0.conv1.bias"].shape == (2, 8)
    assert {name: tensor.shape for name, tensor in tensors.items()} == folding.shapes(
        unet.config, 2
    )


def test_folding_leaves_the_network_as_it_was() -> None:
    unet = toys.student_unet()
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    folding.fold(unet, [999])
    assert all(torch.equal(before[name], tensor) for name, tensor in unet.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"act_fn": "gelu"}, "act_fn"),
        ({"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift"),
        ({"down_block_types": ("AttnDownBlock2D",) * 4}, "down_block_types"),
        ({"only_cross_attention": True}, "only_cross_attention"),
        ({"cross_attention_dim": (32, 32, 32, 64)}, "cross_attention_dim"),
        ({"center_input_sample": True}, "center_input_sample"),
    ],
)
def test_an_unsupported_configuration_is_refused_with_its_field(
    changes: dict[str, Any], field: str
) -> None:
    unet = UNet2DConditionModel(**{**tiny.sd15_unet_config(), **changes})
    with pytest.raises(ReleaseInvalid, match=field):
        folding.fold(unet, [999])


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("conv_out.bias", None, "lack conv_out.bias"),
        ("conv_new.bias", torch.zeros(4), "have conv_new.bias"),
        ("conv_out.bias", torch.zeros(5), r"conv_out.bias has the shape \(5,\), not \(4,\)"),
        ("mid_block.resnets.0.conv1.bias", torch.zeros(1, 32), r"shape \(1, 32\), not \(2, 32\)"),
    ],
)
def test_tensors_that_contradict_the_configuration_are_refused(
    name: str, tensor: torch.Tensor | None, message: str
) -> None:
    unet = toys.student_unet("base")
    tensors = folding.fold(unet, [999, 499])
    if tensor is None:
        del tensors[name]
    else:
        tensors[name] = tensor
    with pytest.raises(ReleaseInvalid, match=message):
        FoldedUNet(unet.config, tensors)
