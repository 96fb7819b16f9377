"""Folding of a U-Net's time embedding into biases, for a network that runs at a few fixed timesteps.

The residual block computes conv1(…) + time_emb_proj(SiLU(embedding(t))): at a fixed t the second term is one number per
channel, so it is added to the bias of conv1, exactly. The folded network has one bias per step in each residual block.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from generation.engine.errors import ReleaseInvalid

TIME_EMBEDDING = "time_embedding."
TIME_PROJECTION = ".time_emb_proj."
BIAS = "conv1.bias"

# Fields that change the computation, with the values that `student` supports.
_ACCEPTED: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "addition_embed_type": (None,),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "downsample_padding": (1,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn", None),
    "num_attention_heads": (None,),  # diffusers takes the number of heads from `attention_head_dim`
    "num_class_embeds": (None,),
    "resnet_out_scale_factor": (1,),
    "resnet_skip_time_act": (False,),
    "resnet_time_scale_shift": ("default",),
    "time_cond_proj_dim": (None,),
    "time_embedding_type": ("positional",),
    "upcast_attention": (False, True, None),  # changes nothing in fused attention
}
_ACCEPTED_PER_LEVEL: dict[str, tuple[Any, ...]] = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "only_cross_attention": (False,),
}


def fold(unet: UNet2DConditionModel, timesteps: Sequence[int]) -> dict[str, Tensor]:
    """Return the network's tensors without time embedding, fp32 on the CPU; biases of conv1 are [steps, channels].

    timesteps: those of the network's steps, in order. Raises ReleaseInvalid, naming the field.
    """
    check(unet.config)
    with torch.no_grad():
        embedding = _embedding(unet, timesteps)
        biases = {
            f"{name}.{BIAS}": block.conv1.bias + block.time_emb_proj(block.nonlinearity(embedding))
            for name, block in _residual_blocks(unet)
        }
    kept = {name: tensor for name, tensor in unet.state_dict().items() if not _vanishes(name)}
    return {
        name: biases.get(name, tensor).detach().float().cpu().contiguous()
        for name, tensor in kept.items()
    }


def unfold(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], timesteps: Sequence[int]
) -> UNet2DConditionModel:
    """Return a network with a time embedding, fp32, that equals the folded network at the timesteps.

    The first layers of the time embedding are arbitrary. Their projection into each residual block is the minimum-norm
    solution for its biases, so other timesteps give a mixture of the biases. Raises ReleaseInvalid.
    """
    check(config)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        unet = UNet2DConditionModel.from_config(_plain(config)).requires_grad_(False).eval()
        for parameter in unet.time_embedding.parameters():
            # Larger than at initialisation: embeddings of neighbouring timesteps must differ. Within the range of fp16.
            parameter.copy_((2 * parameter).half())
        embedding = _embedding(unet, timesteps)
        whole = dict(tensors)
        for name, block in _residual_blocks(unet):
            biases = tensors[f"{name}.{BIAS}"].double()
            mean = biases.mean(dim=0)
            inputs = block.nonlinearity(embedding).double()
            projection = (torch.linalg.pinv(inputs) @ (biases - mean)).T
            whole[f"{name}.{BIAS}"] = mean.float()
            whole[f"{name}{TIME_PROJECTION}weight"] = projection.float()
            whole[f"{name}{TIME_PROJECTION}bias"] = torch.zeros_like(mean, dtype=torch.float32)
        unet.load_state_dict({**unet.state_dict(), **whole})
    return unet


def shapes(config: Mapping[str, Any], steps: int) -> dict[str, torch.Size]:
    """Return name → shape of every tensor of a folded network. Raises ReleaseInvalid, naming the field."""
    check(config)
    try:
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(_plain(config))
    except (TypeError, ValueError, ZeroDivisionError, IndexError) as error:
        raise ReleaseInvalid(
            f"unet/config.json is not a valid U-Net configuration: {error}"
        ) from error
    biases = {f"{name}.{BIAS}" for name, _ in _residual_blocks(unet)}
    return {
        name: torch.Size((steps, *tensor.shape)) if name in biases else tensor.shape
        for name, tensor in unet.state_dict().items()
        if not _vanishes(name)
    }


def check(config: Mapping[str, Any]) -> None:
    """Raise ReleaseInvalid, naming the field, if the configuration cannot be folded and served."""
    for field, accepted in itertools.chain(_ACCEPTED.items(), _ACCEPTED_PER_LEVEL.items()):
        found = config.get(field, accepted[0])
        values = (
            found if field in _ACCEPTED_PER_LEVEL and isinstance(found, list | tuple) else [found]
        )
        for value in values:
            if value not in accepted:
                raise ReleaseInvalid(
                    f"unet/config.json: {field} is {value!r}. For a student it must be "
                    f"{' or '.join(map(repr, accepted))}."
                )
    for field in ("norm_num_groups", "cross_attention_dim", "sample_size", "in_channels"):
        if not isinstance(config.get(field), int):
            raise ReleaseInvalid(
                f"unet/config.json: {field} must be a whole number, not {config.get(field)!r}."
            )


def _embedding(unet: UNet2DConditionModel, timesteps: Sequence[int]) -> Tensor:
    """Return the input of the time projections in the residual blocks, [steps, width of the time embedding]."""
    projected = unet.time_proj(torch.tensor(list(timesteps), device=unet.device))
    embedding = unet.time_embedding(projected.to(unet.dtype))
    return embedding if unet.time_embed_act is None else unet.time_embed_act(embedding)


def _residual_blocks(unet: UNet2DConditionModel) -> list[tuple[str, ResnetBlock2D]]:
    return [
        (name, module) for name, module in unet.named_modules() if isinstance(module, ResnetBlock2D)
    ]


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if not name.startswith("_")}


def _vanishes(name: str) -> bool:
    return name.startswith(TIME_EMBEDDING) or TIME_PROJECTION in name
