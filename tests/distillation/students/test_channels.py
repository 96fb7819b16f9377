"""The table of slots covers the network: each axis of channels from end to end, and each channel's outgoing weights."""

import pytest

from distillation.students import channels, cuts
from distillation.students.errors import StudentRefused

from .toys import DEEP, SD15, STARTER

NETWORKS = {
    "starter": STARTER,
    "deep": DEEP,
    "sd15": SD15,
    "linear": STARTER.changed({"use_linear_projection": True, "transformer_layers_per_block": 2}),
    "tiny": cuts.student_shape(SD15, cuts.CUTS["tiny"]),
}
# All that is not indexed by channels: latents, text, frequencies.
OUTER = {
    ("conv_in.weight", 1): 4,
    ("conv_out.weight", 0): 4,
    ("conv_out.bias", 0): 4,
    (channels.FREQUENCIES, 1): None,
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=list(NETWORKS))
def test_every_axis_of_channels_is_covered_once(network):
    layout = channels.layout(network)
    covered: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for slot in layout.slots:
        ends = (slot.start, slot.start + layout.spaces[slot.space].channels)
        covered.setdefault((slot.tensor, slot.axis), []).append(ends)
    for name, shape in network.tensors.items():
        for axis in range(min(len(shape), 2)):
            reads_text = axis == 1 and name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))
            if reads_text or (name, axis) in OUTER:
                assert (name, axis) not in covered
                continue
            end = 0
            for start, stop in sorted(covered.pop((name, axis))):
                assert start == end, name
                end = stop
            assert end == shape[axis], name
    assert not covered
    assert {slot.space for slot in layout.slots if slot.is_outgoing} == set(layout.spaces)


def test_a_residual_stream_is_one_space_with_all_that_is_added_to_it():
    layout = channels.layout(STARTER)
    writers = {
        slot.tensor
        for slot in layout.slots
        if slot.space == "conv_in" and slot.axis == 0 and slot.tensor.endswith(".weight")
    }
    assert {
        "conv_in.weight",
        "down_blocks.0.resnets.0.conv2.weight",
        "down_blocks.0.resnets.1.conv2.weight",
    } <= writers
    assert "down_blocks.0.downsamplers.0.conv.weight" not in writers


def test_heads_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(StudentRefused, match="attention_head_dim"):
        channels.layout(STARTER.changed({"attention_head_dim": 3}))
