"""Small UNets of SD 1.5's block types with weights that are all random, norms and biases too."""

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from distillation.students import cuts, weights
from distillation.students.cuts import Cut
from distillation.students.unets import UNetShape

_SD15 = {
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
}
# As generation/starter/teacher: the innermost stage is wider than the one above it.
_STARTER = {
    **_SD15,
    "attention_head_dim": 2,
    "block_out_channels": [8, 16, 32],
    "cross_attention_dim": 6,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "norm_num_groups": 4,
    "sample_size": 8,
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
}
# As SD 1.5: the two innermost stages are equally wide, and the innermost does not attend.
_DEEP = {
    **_STARTER,
    "block_out_channels": [8, 16, 16],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}
SD15, STARTER, DEEP = UNetShape(_SD15), UNetShape(_STARTER), UNetShape(_DEEP)
PUBLISHED = ("base", "small", "tiny")  # cuts


def unet(shape: UNetShape, *, seed: int = 0) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    network = UNet2DConditionModel(**shape.config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def sources(teacher: UNetShape, cut: Cut) -> dict[str, str]:
    """Return for each of the student's tensors the name of the teacher's tensor that it comes from."""
    return {name: weights.source_of(name, cut) for name in cuts.student_shape(teacher, cut).tensors}


def loaded(shape: UNetShape, tensors: dict[str, torch.Tensor]) -> UNet2DConditionModel:
    """Return the network with these tensors. Raises if one is missing."""
    network = UNet2DConditionModel(**shape.config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(float("nan"))  # what is not given shows in the output
    network.load_state_dict(tensors, strict=True)
    return network


@torch.no_grad()
def output(network: UNet2DConditionModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    text = torch.randn(2, 5, network.config.cross_attention_dim, generator=generator)
    return network(latents, torch.tensor([3, 900]), encoder_hidden_states=text).sample
