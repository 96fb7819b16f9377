"""Table of the axes of a UNet's tensors that are indexed by the same channels.

A space is a set of channels (neurons) that can only be removed everywhere at once: a residual stream with all that is
added to it and all that reads it as input or skip, the inside of a residual block, the heads of an attention, the
hidden layer of a GEGLU, the time embedding. The table of slots lists where each space occurs; slicing and scoring use
that table.
"""

from dataclasses import dataclass, field

from distillation.students.errors import StudentRefused
from distillation.students.unets import ATTENDS, UNetShape

FREQUENCIES = (
    "time_embedding.linear_1.weight"  # its inputs are sinusoids, not neurons: see widths.py
)


@dataclass(frozen=True)
class Space:
    """A set of channels that are kept or removed in units of `unit` channels: a group of a norm, or a head."""

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


@dataclass
class Layout:
    """All spaces, slots and GroupNorms of a UNet. norms: for each norm the spaces of its channels, in order."""

    spaces: dict[str, Space] = field(default_factory=dict)
    slots: list[Slot] = field(default_factory=list)
    norms: list[tuple[str, ...]] = field(default_factory=list)


def layout(shape: UNetShape) -> Layout:
    """Return the layout of the network. Raises StudentRefused if norms or heads do not divide its channels."""
    for level, (width, heads) in enumerate(zip(shape.widths, shape.heads, strict=True)):
        if width % shape.groups or (shape.attends(level) and width % heads):
            raise StudentRefused(
                f"Level {level} has {width} channels (block_out_channels), which norm_num_groups ({shape.groups}) and "
                f"attention_head_dim ({heads} heads) must divide."
            )
    walk = _Walk(shape)
    walk.whole()
    return walk.layout


class _Walk:
    """Records the network's spaces and slots in the order of its forward pass (diffusers' UNet2DConditionModel)."""

    def __init__(self, shape: UNetShape) -> None:
        self.layout = Layout()
        self._shape = shape

    def whole(self) -> None:
        shape, widths, levels = self._shape, self._shape.widths, self._shape.levels
        self._space("time_embedding.hidden", shape.time_width, 1)
        self._space("time_embedding", shape.time_width, 1)
        self._linear("time_embedding.linear_1", (), "time_embedding.hidden")
        self._linear("time_embedding.linear_2", ("time_embedding.hidden",), "time_embedding")

        hidden = self._stream("conv_in", widths[0])
        self._linear("conv_in", (), hidden)
        skips = [hidden]
        for level, kind in enumerate(shape.down):
            stage = f"down_blocks.{level}"
            for layer in range(shape.layers[level]):
                hidden = self._resnet(f"{stage}.resnets.{layer}", (hidden,), widths[level])
                if ATTENDS[kind]:
                    self._transformer(f"{stage}.attentions.{layer}", hidden, level)
                skips.append(hidden)
            if level < levels - 1:
                hidden = self._conv(f"{stage}.downsamplers.0.conv", hidden)
                skips.append(hidden)

        if shape.has_mid:
            hidden = self._resnet("mid_block.resnets.0", (hidden,), widths[-1])
            self._transformer("mid_block.attentions.0", hidden, levels - 1)
            hidden = self._resnet("mid_block.resnets.1", (hidden,), widths[-1])

        for stage_number, kind in enumerate(shape.up):
            level = levels - 1 - stage_number
            stage = f"up_blocks.{stage_number}"
            for layer in range(shape.layers[level] + 1):
                parts = (hidden, skips.pop())
                hidden = self._resnet(f"{stage}.resnets.{layer}", parts, widths[level])
                if ATTENDS[kind]:
                    self._transformer(f"{stage}.attentions.{layer}", hidden, level)
            if level:
                hidden = self._conv(f"{stage}.upsamplers.0.conv", hidden)

        self._norm("conv_norm_out", (hidden,))
        self._linear("conv_out", (hidden,), None)

    # --- blocks -----------------------------------------------------------------------------------
    def _resnet(self, name: str, inputs: tuple[str, ...], width: int) -> str:
        """Record a residual block; return the space of its output, the input's own if that is added unchanged."""
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
        width, heads = self._shape.widths[level], self._shape.heads[level]
        inside = self._space(f"{name}.hidden", width, 1)
        self._norm(f"{name}.norm", (stream,))
        self._linear(f"{name}.proj_in", (stream,), inside)
        for number in range(self._shape.transformer_layers[level]):
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
        """Record a convolution between two levels; return the space of its output."""
        output = self._stream(name, self.layout.spaces[stream].channels)
        self._linear(name, (stream,), output)
        return output

    # --- tables -----------------------------------------------------------------------------------
    def _space(self, name: str, channels: int, unit: int) -> str:
        self.layout.spaces[name] = Space(channels, unit)
        return name

    def _stream(self, name: str, channels: int) -> str:
        return self._space(name, channels, channels // self._shape.groups)

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
        """Record a linear layer or a convolution, weight [outputs, inputs, …]. Default: all are kept."""
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
        self.layout.norms.append(spaces)
