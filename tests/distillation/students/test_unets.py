"""Configurations that the tables do not describe are refused, with the field; the others are completed."""

import pytest
import torch

from distillation.students import unets
from distillation.students.errors import StudentRefused

from .toys import SD15, STARTER


def test_the_parameters_of_stable_diffusion_are_counted_without_memory():
    assert unets.parameters(SD15) == 859_520_964


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
        unets.complete({**STARTER, field: value})


def test_a_completed_configuration_is_complete():
    full = unets.complete({"_class_name": "UNet2DConditionModel", **STARTER})
    assert full == unets.complete(full)
    assert full["mid_block_type"] == "UNetMidBlock2DCrossAttn"
    assert not [name for name in full if name.startswith("_")]


def test_tensors_of_another_network_are_refused_with_the_name_of_the_first():
    expected = {"a": torch.Size([2]), "b": torch.Size([3])}
    whole = {"a": torch.zeros(2), "b": torch.zeros(3)}
    unets.require(whole, expected)
    for tensors, named in (
        ({"a": torch.zeros(2)}, "b"),
        ({**whole, "c": torch.zeros(1)}, "c"),
        ({**whole, "a": torch.zeros(3)}, "a"),
    ):
        with pytest.raises(StudentRefused, match=f"first of them {named}"):
            unets.require(tensors, expected)
