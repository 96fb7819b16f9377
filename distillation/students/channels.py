"""Which axes of which tensors of a UNet are indexed by the same channels. Knows no weights and no choice of channels.

A space is a set of channels (neurons) that can only be removed everywhere at once: a residual stream with all that is
added to it and all that reads it as input or skip, the inside of a residual block, the heads of an attention, the
hidden layer of a GEGLU, the time embedding. The table of slots says where each space is found; slicing and scoring are
done by that table.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from distillation.students import unets
from distillation.students.errors import StudentRefused

FREQUENCIES = "time_embedding.linear_1.weight"  # its inputs are no neurons: see widths.py


@dataclass(frozen=True)
class Space:
    """`unit` channels stay together: a group of a norm, or a head."""

    channels: int
    unit: int


@dataclass(frozen=True)
class Slot:
    """A part of an axis of a tensor: entry `start + i` belongs to channel i of the space."""

    tensor: str
    axis: int
    start: int
    space: str
    is_outgoing: bool  # whether these weights carry the channel on to others


@dataclass(frozen=True)
class Norm:
    """A GroupNorm over the channels of spaces, one after another."""

    name: str
    spaces: tuple[str, ...]


@dataclass
class Layout:
    """Of a whole UNet."""

    spaces: dict[str, Space] = field(default_factory=dict)
    slots: list[Slot] = field(default_factory=list)
    norms: list[Norm] = field(default_factory=list)

    def width(self, norm: Norm) -> int:
        return sum(self.spaces[space].channels for space in norm.spaces)


def layout(config: Mapping[str, Any]) -> Layout:
    """Of the network of this configuration. Raises StudentRefused if norms or heads do not divide its channels."""
    full = unets.complete(config)
    groups = full["norm_num_groups"]
    heads = unets.per_level(full, "attention_head_dim")
    for level, width in enumerate(full["block_out_channels"]):
        if width % groups or (attends(full, level) and width % heads[level]):
            raise StudentRefused(
                f"Level {level} has {width} channels (block_out_channels), which norm_num_groups ({groups}) and "
                f"attention_head_dim ({heads[level]} heads) must divide."
            )
    walk = _Walk(full)
    walk.whole()
    return walk.layout


def attends(config: Mapping[str, Any], level: int) -> bool:
    """Whether any block at this level has attentions. `config`: complete."""
    levels = len(config["block_out_channels"])
    return (
        unets.ATTENDS[config["down_block_types"][level]]
        or unets.ATTENDS[config["up_block_types"][levels - 1 - level]]
        or (level == levels - 1 and config["mid_block_type"] is not None)
    )


class _Walk:
    """Goes through the network as its forward pass does (diffusers' UNet2DConditionModel)."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.layout = Layout()
        self._config = config
        self._groups: int = config["norm_num_groups"]
        self._widths: tuple[int, ...] = config["block_out_channels"]
        self._heads = unets.per_level(config, "attention_head_dim")
        self._layers = unets.per_level(config, "layers_per_block")
        self._transformer_layers = unets.per_level(config, "transformer_layers_per_block")

    def whole(self) -> None:
        config, widths = self._config, self._widths
        levels = len(widths)
        time_width = config["time_embedding_dim"] or 4 * widths[0]
        self._space("time_embedding.hidden", time_width, 1)
        self._space("time_embedding", time_width, 1)
        self._linear("time_embedding.linear_1", (), "time_embedding.hidden")
        self._linear("time_embedding.linear_2", ("time_embedding.hidden",), "time_embedding")

        hidden = self._stream("conv_in", widths[0])
        self._linear("conv_in", (), hidden)
        skips = [hidden]
        for level, kind in enumerate(config["down_block_types"]):
            stage = f"down_blocks.{level}"
            for layer in range(self._layers[level]):
                hidden = self._resnet(f"{stage}.resnets.{layer}", (hidden,), widths[level])
                if unets.ATTENDS[kind]:
                    self._transformer(f"{stage}.attentions.{layer}", hidden, level)
                skips.append(hidden)
            if level < levels - 1:
                hidden = self._conv(f"{stage}.downsamplers.0.conv", hidden)
                skips.append(hidden)

        if config["mid_block_type"] is not None:
            hidden = self._resnet("mid_block.resnets.0", (hidden,), widths[-1])
            self._transformer("mid_block.attentions.0", hidden, levels - 1)
            hidden = self._resnet("mid_block.resnets.1", (hidden,), widths[-1])

        for stage_number, kind in enumerate(config["up_block_types"]):
            level = levels - 1 - stage_number
            stage = f"up_blocks.{stage_number}"
            for layer in range(self._layers[level] + 1):
                parts = (hidden, skips.pop())
                hidden = self._resnet(f"{stage}.resnets.{layer}", parts, widths[level])
                if unets.ATTENDS[kind]:
                    self._transformer(f"{stage}.attentions.{layer}", hidden, level)
            if level:
                hidden = self._conv(f"{stage}.upsamplers.0.conv", hidden)

        self._norm("conv_norm_out", (hidden,))
        self._linear("conv_out", (hidden,), None)

    # --- blocks -----------------------------------------------------------------------------------
    def _resnet(self, name: str, inputs: tuple[str, ...], width: int) -> str:
        """The space of the output: that of the input if it is added unchanged."""
        inside = self._stream(f"{name}.hidden", width)
        is_added = sum(self.layout.spaces[space].channels for space in inputs) == width
        output = inputs[0] if is_added else self._stream(name, width)
        self._norm(f"{name}.norm1", inputs)
        self._linear(f"{name}.conv1", inputs, inside)
        self._linear(f"{name}.time_emb_proj", ("time_embedding",), inside)
        self._norm(f"{name}.norm2", (inside,))
        self._linear(f"{name}.conv2", (inside,), output)
        if not is_added:
            self._linear(f"{name}.conv_shortcut", inputs, output)
        return output

    def _transformer(self, name: str, stream: str, level: int) -> None:
        width, heads = self._widths[level], self._heads[level]
        inside = self._space(f"{name}.hidden", width, 1)
        self._norm(f"{name}.norm", (stream,))
        self._linear(f"{name}.proj_in", (stream,), inside)
        for number in range(self._transformer_layers[level]):
            block = f"{name}.transformer_blocks.{number}"
            for attention, sees_text in (("attn1", False), ("attn2", True)):
                self._affine(f"{block}.norm{attention[-1]}", (inside,))
                part = f"{block}.{attention}"
                values = self._space(f"{part}.heads", width, width // heads)
                for projection, reads_text in (
                    ("to_q", False),
                    ("to_k", sees_text),
                    ("to_v", sees_text),
                ):
                    inputs = () if reads_text else (inside,)
                    self._linear(f"{part}.{projection}", inputs, values, has_bias=False)
                self._linear(f"{part}.to_out.0", (values,), inside)
            self._affine(f"{block}.norm3", (inside,))
            neurons = self._space(f"{block}.ff.hidden", 4 * width, 1)
            gated = (
                f"{block}.ff.net.0.proj"  # GEGLU: the values, then the gates of the same neurons
            )
            self._inputs(gated, (inside,))
            for half in (0, 4 * width):
                self._slot(f"{gated}.weight", 0, half, neurons)
                self._slot(f"{gated}.bias", 0, half, neurons)
            self._linear(f"{block}.ff.net.2", (neurons,), inside)
        self._linear(f"{name}.proj_out", (inside,), stream)

    def _conv(self, name: str, stream: str) -> str:
        """A convolution between two levels."""
        output = self._stream(name, self.layout.spaces[stream].channels)
        self._linear(name, (stream,), output)
        return output

    # --- tables -----------------------------------------------------------------------------------
    def _space(self, name: str, channels: int, unit: int) -> str:
        self.layout.spaces[name] = Space(channels, unit)
        return name

    def _stream(self, name: str, channels: int) -> str:
        return self._space(name, channels, channels // self._groups)

    def _slot(
        self, tensor: str, axis: int, start: int, space: str, *, is_outgoing: bool = False
    ) -> None:
        self.layout.slots.append(Slot(tensor, axis, start, space, is_outgoing))

    def _inputs(self, name: str, inputs: tuple[str, ...]) -> None:
        start = 0
        for space in inputs:
            self._slot(f"{name}.weight", 1, start, space, is_outgoing=True)
            start += self.layout.spaces[space].channels

    def _linear(
        self, name: str, inputs: tuple[str, ...], output: str | None, *, has_bias: bool = True
    ) -> None:
        """A linear layer or a convolution: weight [outputs, inputs, …]. No inputs or output: all of them stay."""
        self._inputs(name, inputs)
        if output is not None:
            self._slot(f"{name}.weight", 0, 0, output)
            if has_bias:
                self._slot(f"{name}.bias", 0, 0, output)

    def _affine(self, name: str, spaces: tuple[str, ...]) -> None:
        start = 0
        for space in spaces:
            self._slot(f"{name}.weight", 0, start, space)
            self._slot(f"{name}.bias", 0, start, space)
            start += self.layout.spaces[space].channels

    def _norm(self, name: str, spaces: tuple[str, ...]) -> None:
        self._affine(name, spaces)
        self.layout.norms.append(Norm(name, spaces))
