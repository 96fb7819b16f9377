"""What a configuration of diffusers' UNet2DConditionModel says, and which ones can be cut. Knows no weights.

A configuration is a dict as in diffusers' config.json. Names of parameters and their shapes come from diffusers itself,
built on torch's meta device: that takes no memory, at any size.
"""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from distillation.students.errors import StudentRefused

Config = dict[str, Any]

ATTENDS = {  # the block types that can be cut, and whether they have attentions
    "CrossAttnDownBlock2D": True,
    "DownBlock2D": False,
    "CrossAttnUpBlock2D": True,
    "UpBlock2D": False,
}
MID_BLOCK = "UNetMidBlock2DCrossAttn"

# Fields that change which tensors there are, with the values that the tables of this package describe.
ACCEPTED: dict[str, tuple[Any, ...]] = {
    "addition_embed_type": (None,),
    "attention_type": ("default",),
    "class_embed_type": (None,),
    "class_embeddings_concat": (False,),
    "cross_attention_norm": (None,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_type": (MID_BLOCK, None),
    "num_attention_heads": (None,),  # diffusers takes the number of heads from `attention_head_dim`
    "num_class_embeds": (None,),
    "only_cross_attention": (False,),
    "resnet_time_scale_shift": ("default",),
    "reverse_transformer_layers_per_block": (None,),
    "time_cond_proj_dim": (None,),
    "time_embedding_type": ("positional",),
}
_DEFAULTS: Config = {
    name: parameter.default
    for name, parameter in inspect.signature(UNet2DConditionModel.__init__).parameters.items()
    if name != "self"
}
# One value for all levels, or a list with one for each, from the highest resolution down.
PER_LEVEL = (
    "attention_head_dim",
    "cross_attention_dim",
    "layers_per_block",
    "only_cross_attention",
    "transformer_layers_per_block",
)


def complete(config: Mapping[str, Any]) -> Config:
    """The configuration with diffusers' defaults, lists as tuples. Raises StudentRefused, which names the field."""
    full = {
        **_DEFAULTS,
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in config.items()
            if not name.startswith("_")
        },
    }
    unknown = sorted(set(full) - set(_DEFAULTS))
    if unknown:
        raise StudentRefused(
            f"Its configuration has the fields {unknown}, which UNet2DConditionModel does not know: "
            "give the config.json of the teacher's folder `unet`."
        )
    levels = len(full["block_out_channels"])
    for field in ("down_block_types", "up_block_types", *PER_LEVEL):
        value = full[field]
        if isinstance(value, tuple) and len(value) != levels:
            raise StudentRefused(
                f"{field} has {len(value)} values for {levels} levels (block_out_channels): "
                "give one for each level."
            )
    for field in ("down_block_types", "up_block_types"):
        suffix = "DownBlock2D" if field.startswith("down") else "UpBlock2D"
        accepted = tuple(name for name in ATTENDS if name.endswith(suffix))
        for kind in full[field]:
            if kind not in accepted:
                raise StudentRefused(
                    f"{field} has {kind!r}. Only teachers of SD 1.5's block types can be cut: "
                    f"{', '.join(accepted)}."
                )
    for field, values in ACCEPTED.items():
        found = full[field]
        if found not in values and not (isinstance(found, tuple) and set(found) <= set(values)):
            raise StudentRefused(
                f"{field} is {found!r}. Only teachers of SD 1.5's shape can be cut: "
                f"it must be {' or '.join(map(repr, values))}."
            )
    if not isinstance(full["norm_num_groups"], int):
        raise StudentRefused(
            f"norm_num_groups is {full['norm_num_groups']!r}: it must be a number."
        )
    return full


def per_level(config: Mapping[str, Any], field: str) -> tuple[Any, ...]:
    """The values of a field of PER_LEVEL, one for each level, from the highest resolution down."""
    value = config[field]
    return value if isinstance(value, tuple) else (value,) * len(config["block_out_channels"])


def sees_prompt(config: Mapping[str, Any]) -> bool:
    """Whether any block has cross-attention."""
    kinds = (*config["down_block_types"], *config["up_block_types"])
    return config["mid_block_type"] is not None or any(ATTENDS[kind] for kind in kinds)


def shapes(config: Mapping[str, Any]) -> dict[str, torch.Size]:
    """The shape of every tensor of the network's state dict, in its order."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(complete(config))
    return {name: tensor.shape for name, tensor in unet.state_dict().items()}


def parameters(config: Mapping[str, Any]) -> int:
    """How many numbers the network has."""
    return sum(shape.numel() for shape in shapes(config).values())


def require(
    tensors: Mapping[str, torch.Tensor],
    expected: Mapping[str, torch.Size],
    *,
    names: Iterable[str] | None = None,
) -> None:
    """Refuse tensors that are not, by name and shape, what is expected; `names`: only these of them, if given."""
    wanted = set(expected) if names is None else set(names)
    missing = sorted(wanted - set(tensors))
    unknown = sorted(set(tensors) - set(expected))
    wrong = sorted(name for name in wanted & set(tensors) if tensors[name].shape != expected[name])
    for problem, found in (
        ("lacks", missing),
        ("has, unlike its configuration,", unknown),
        ("has in another shape", wrong),
    ):
        if found:
            raise StudentRefused(
                f"Its state dict {problem} {len(found)} tensors, the first of them {found[0]}: "
                "give the weights and the configuration of one folder `unet`."
            )
