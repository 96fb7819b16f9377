"""Configurations that the tables do not describe are refused, with the field; the others are completed."""

import pytest
import torch

from distillation.students.errors import StudentRefused
from distillation.students.unets import UNetShape

from .toys import SD15, STARTER


def test_the_parameters_of_stable_diffusion_are_counted_without_memory():
    assert sum(shape.numel() for shape in SD15.tensors.values()) == 859_520_964


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("down_block_types", ["DownBlock2D", "CrossAttnDownBlock2D", "AttnDownBlock2D"]),
        ("up_block_types", ["CrossAttnUpBlock2D", "ResnetUpsampleBlock2D", "UpBlock2D"]),
        ("down_block_types", ["DownBlock2D", "CrossAttnDownBlock2D"]),
        ("mid_block_type", "UNetMidBlock2D"),
        ("addition_embed_type", "text_time"),
        ("resnet_time_scale_shift", "scale_shift"),
        ("only_cross_attention", [False, True, False]),
        ("norm_num_groups", None),
        ("attention_head_dim", [2, 2]),
        ("colour", "red"),
    ],
)
def test_another_shape_is_refused_with_the_name_of_the_field(field, value):
    with pytest.raises(StudentRefused, match=field):
        STARTER.changed({field: value})


def test_a_completed_configuration_is_complete():
    whole = UNetShape(
        {"_class_name": "UNet2DConditionModel", "down_block_types": ["DownBlock2D"] * 4}
    )
    assert whole == UNetShape(whole.config)
    assert whole.config["mid_block_type"] == "UNetMidBlock2DCrossAttn"
    assert whole.config["down_block_types"] == whole.down == ("DownBlock2D",) * 4
    assert not [name for name in whole.config if name.startswith("_")]


def test_values_per_level_and_the_levels_that_attend_are_read_from_the_configuration():
    assert STARTER.widths == (8, 16, 32) and STARTER.heads == (2, 2, 2) and STARTER.time_width == 32
    assert [STARTER.attends(level) for level in range(3)] == [False, True, True]
    blind = {"down_block_types": ["DownBlock2D"] * 3, "up_block_types": ["UpBlock2D"] * 3}
    assert STARTER.changed(blind).sees_prompt  # by the mid block
    assert not STARTER.changed({**blind, "mid_block_type": None}).sees_prompt


def test_tensors_of_another_network_are_refused_with_the_name_of_the_first():
    whole = {name: torch.zeros(shape) for name, shape in STARTER.tensors.items()}
    STARTER.require(whole)
    for tensors, named in (
        ({name: value for name, value in whole.items() if name != "conv_in.bias"}, "conv_in.bias"),
        ({**whole, "c": torch.zeros(1)}, "c"),
        ({**whole, "conv_in.bias": torch.zeros(3)}, "conv_in.bias"),
    ):
        with pytest.raises(StudentRefused, match=f"first of them {named}"):
            STARTER.require(tensors)
