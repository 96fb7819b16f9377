"""The shape of a diffusers UNet2DConditionModel: its configuration, completed and checked once.

Names of parameters and their shapes come from diffusers itself, built on torch's meta device: that takes no memory, at
any size.
"""

import functools
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from distillation.students.errors import StudentRefused

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
_DEFAULTS: dict[str, Any] = {
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


@dataclass(frozen=True)
class UNetShape:
    """A UNet that this package can cut. Values per level go from the highest resolution down.

    config: as in diffusers' config.json; kept with diffusers' defaults, and lists as tuples. Raises StudentRefused,
    which names the field, for a network that the tables of this package do not describe.
    """

    config: Mapping[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "config", _completed(self.config))
        self._check_levels()
        self._check_blocks()
        if not isinstance(self.config["norm_num_groups"], int):
            raise StudentRefused(
                f"norm_num_groups is {self.config['norm_num_groups']!r}: it must be a number."
            )

    def _check_levels(self) -> None:
        for field in ("down_block_types", "up_block_types", *PER_LEVEL):
            value = self.config[field]
            if isinstance(value, tuple) and len(value) != self.levels:
                raise StudentRefused(
                    f"{field} has {len(value)} values for {self.levels} levels (block_out_channels): "
                    "give one for each level."
                )

    def _check_blocks(self) -> None:
        for field, suffix in (("down_block_types", "DownBlock2D"), ("up_block_types", "UpBlock2D")):
            accepted = tuple(name for name in ATTENDS if name.endswith(suffix))
            for kind in self.config[field]:
                if kind not in accepted:
                    raise StudentRefused(
                        f"{field} has {kind!r}. Only teachers of SD 1.5's block types can be cut: "
                        f"{', '.join(accepted)}."
                    )
        for field, values in ACCEPTED.items():
            found = self.config[field]
            if found not in values and not (isinstance(found, tuple) and set(found) <= set(values)):
                raise StudentRefused(
                    f"{field} is {found!r}. Only teachers of SD 1.5's shape can be cut: "
                    f"it must be {' or '.join(map(repr, values))}."
                )

    def changed(self, fields: Mapping[str, Any]) -> "UNetShape":
        """Return the shape with other values of these fields."""
        return UNetShape({**self.config, **fields})

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(self.config["block_out_channels"])

    @property
    def levels(self) -> int:
        return len(self.config["block_out_channels"])

    @property
    def down(self) -> tuple[str, ...]:
        return tuple(self.config["down_block_types"])

    @property
    def up(self) -> tuple[str, ...]:
        """Block types from the lowest resolution up."""
        return tuple(self.config["up_block_types"])

    @property
    def has_mid(self) -> bool:
        return self.config["mid_block_type"] is not None

    @property
    def groups(self) -> int:
        """Number of groups of every GroupNorm."""
        return int(self.config["norm_num_groups"])

    @property
    def heads(self) -> tuple[int, ...]:
        return self._per_level("attention_head_dim")

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers of each down stage; an up stage has one more."""
        return self._per_level("layers_per_block")

    @property
    def transformer_layers(self) -> tuple[int, ...]:
        return self._per_level("transformer_layers_per_block")

    @property
    def time_width(self) -> int:
        """Channels of the time embedding."""
        return int(self.config["time_embedding_dim"] or 4 * self.widths[0])

    def _per_level(self, field: str) -> tuple[Any, ...]:
        value = self.config[field]
        return value if isinstance(value, tuple) else (value,) * self.levels

    def attends(self, level: int) -> bool:
        """Return whether any block at this level has attentions."""
        kinds = self.down[level], self.up[self.levels - 1 - level]
        return any(ATTENDS[kind] for kind in kinds) or (level == self.levels - 1 and self.has_mid)

    @property
    def sees_prompt(self) -> bool:
        return any(self.attends(level) for level in range(self.levels))

    @property
    def tensors(self) -> Mapping[str, torch.Size]:
        """The shape of every tensor of the network's state dict, in its order."""
        return _tensors(json.dumps(dict(self.config)))

    def require(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Raise StudentRefused if names or shapes of the tensors differ from those of this network."""
        expected = self.tensors
        for problem, found in (
            ("lacks", set(expected) - set(tensors)),
            ("has, unlike its configuration,", set(tensors) - set(expected)),
            (
                "has in another shape",
                {n for n in set(expected) & set(tensors) if tensors[n].shape != expected[n]},
            ),
        ):
            if found:
                raise StudentRefused(
                    f"Its state dict {problem} {len(found)} tensors, the first of them {min(found)}: "
                    "give the weights and the configuration of one folder `unet`."
                )


@functools.lru_cache(maxsize=32)  # a tenth of a second each, and many shapes have one configuration
def _tensors(config: str) -> Mapping[str, torch.Size]:
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(json.loads(config))
    return {name: tensor.shape for name, tensor in unet.state_dict().items()}


def _completed(config: Mapping[str, Any]) -> dict[str, Any]:
    given = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in config.items()
        if not name.startswith("_")
    }
    if unknown := sorted(set(given) - set(_DEFAULTS)):
        raise StudentRefused(
            f"Its configuration has the fields {unknown}, which UNet2DConditionModel does not know: "
            "give the config.json of the teacher's folder `unet`."
        )
    return {**_DEFAULTS, **given}
