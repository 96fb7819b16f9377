"""Forward pass of a folded U-Net, written directly over its tensors.

It computes the same as diffusers' UNet2DConditionModel with less overhead: at batch size one on a CPU, half of
diffusers' time is Python. Keys and values of the cross-attentions are inputs (`keyvalues`): they depend on the prompt
only.
"""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generation.engine import folding
from generation.engine.errors import ReleaseInvalid


class FoldedUNet(nn.Module):
    """One student on one device, frozen. `config` has diffusers' fields."""

    def __init__(self, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
        """tensors: those of `folding.fold`, on the device and in its dtype. Raises ReleaseInvalid.

        They are removed from the dictionary one by one, so that there is no second copy of all of them.
        """
        super().__init__()
        _require_shapes(config, tensors)
        self.config = SimpleNamespace(**config)
        self.steps = len(tensors["down_blocks.0.resnets.0.conv1.bias"])
        take = _Taking(config, tensors)
        levels = len(config["block_out_channels"])
        heads = config["attention_head_dim"]
        heads = list(heads) if isinstance(heads, list | tuple) else [heads] * levels
        self.conv_in = take.convolution("conv_in")
        self.down = [_Stage(take, f"down_blocks.{i}", heads[i]) for i in range(levels)]
        self.mid = _Stage(take, "mid_block", heads[-1])  # may be empty
        self.up = [_Stage(take, f"up_blocks.{i}", heads[-1 - i]) for i in range(levels)]
        self.norm_out = take.norm("conv_norm_out")
        self.conv_out = take.convolution("conv_out")
        # For all cross-attentions: one product gives keys and values of a prompt.
        self._keyvalue_weight = torch.cat(take.keyvalue_weights)

    @property
    def dtype(self) -> torch.dtype:
        return self._keyvalue_weight.dtype

    def keyvalues(self, prompt_embeds: Tensor) -> Tensor:
        """Return keys and values of all cross-attentions, [tokens, sum of widths], for an embedding [tokens, width]."""
        return F.linear(prompt_embeds, self._keyvalue_weight)

    def forward(self, latents: Tensor, step: int, keyvalues: Tensor) -> Tensor:
        """Return the prediction at the step-th of the folded timesteps, from 0.

        latents: [batch, channels, height, width]; keyvalues: [batch, tokens, sum of widths], rows of `keyvalues`.
        """
        hidden_states = self.conv_in(latents)
        skips = [hidden_states]
        for stage in self.down:
            for layer in stage.layers:
                hidden_states = layer(hidden_states, step, keyvalues)
                skips.append(hidden_states)
            if stage.resampler:
                hidden_states = stage.resampler(hidden_states)
                skips.append(hidden_states)
        for layer in self.mid.layers:
            hidden_states = layer(hidden_states, step, keyvalues)
        for stage in self.up:
            for layer in stage.layers:
                hidden_states = torch.cat([hidden_states, skips.pop()], dim=1)
                hidden_states = layer(hidden_states, step, keyvalues)
            if stage.resampler:
                hidden_states = F.interpolate(hidden_states, size=skips[-1].shape[2:])
                hidden_states = stage.resampler(hidden_states)
        return self.conv_out(F.silu(self.norm_out(hidden_states)))


# --- stages and layers ----------------------------------------------------------------------------
class _Stage:
    """Layers of one resolution, and the convolution to the next."""

    def __init__(self, take: "_Taking", name: str, heads: int) -> None:
        self.layers: list[_Layer] = []
        while take.has(f"{name}.resnets.{len(self.layers)}.conv1.weight"):
            self.layers.append(_Layer(take, name, len(self.layers), heads))
        self.resampler = None
        if take.has(f"{name}.downsamplers.0.conv.weight"):
            self.resampler = take.convolution(f"{name}.downsamplers.0.conv", stride=2)
        elif take.has(f"{name}.upsamplers.0.conv.weight"):
            self.resampler = take.convolution(f"{name}.upsamplers.0.conv")


class _Layer:
    """A residual block and its optional attention."""

    def __init__(self, take: "_Taking", stage: str, number: int, heads: int) -> None:
        name, attention = f"{stage}.resnets.{number}", f"{stage}.attentions.{number}"
        self.norm1, self.norm2 = take.norm(f"{name}.norm1"), take.norm(f"{name}.norm2")
        self.conv1 = take.convolution(f"{name}.conv1")
        self.conv2 = take.convolution(f"{name}.conv2")
        self.shortcut = self.attention = None
        if take.has(f"{name}.conv_shortcut.weight"):
            self.shortcut = take.convolution(f"{name}.conv_shortcut")
        if take.has(f"{attention}.norm.weight"):
            self.attention = _Attention(take, attention, heads)

    def __call__(self, values: Tensor, step: int, keyvalues: Tensor) -> Tensor:
        changed = self.conv1(F.silu(self.norm1(values), inplace=True), step)
        changed = self.conv2(F.silu(self.norm2(changed), inplace=True))
        changed += self.shortcut(values) if self.shortcut else values
        return self.attention(changed, keyvalues) if self.attention else changed


class _Attention:
    """diffusers' Transformer2DModel: self-attention, cross-attention and a gated layer, once or more."""

    def __init__(self, take: "_Taking", name: str, heads: int) -> None:
        self.norm = take.norm(f"{name}.norm", eps=1e-6)
        self.proj_in, self.proj_out = (
            take.linear(f"{name}.proj_in"),
            take.linear(f"{name}.proj_out"),
        )
        self.blocks: list[_Block] = []
        while take.has(f"{name}.transformer_blocks.{len(self.blocks)}.norm1.weight"):
            self.blocks.append(_Block(take, f"{name}.transformer_blocks.{len(self.blocks)}", heads))

    def __call__(self, values: Tensor, keyvalues: Tensor) -> Tensor:
        batch, channels, height, width = values.shape
        tokens = self.norm(values).permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        tokens = F.linear(tokens, *self.proj_in)
        for block in self.blocks:
            tokens = block(tokens, keyvalues)
        changed = F.linear(tokens, *self.proj_out).view(batch, height, width, channels)
        return changed.permute(0, 3, 1, 2).add_(values)


class _Block:
    def __init__(self, take: "_Taking", name: str, heads: int) -> None:
        self.heads = heads
        self.norms = [take.pair(f"{name}.norm{number}") for number in (1, 2, 3)]
        self.width = self.norms[0][0].shape
        self.qkv = torch.cat([take(f"{name}.attn1.to_{part}.weight") for part in "qkv"])
        self.out1 = take.pair(f"{name}.attn1.to_out.0")
        self.query = take(f"{name}.attn2.to_q.weight")
        self.place = take.keyvalues(f"{name}.attn2")
        self.out2 = take.pair(f"{name}.attn2.to_out.0")
        self.gated = take.pair(f"{name}.ff.net.0.proj")
        self.out3 = take.pair(f"{name}.ff.net.2")

    def __call__(self, tokens: Tensor, keyvalues: Tensor) -> Tensor:
        query, key, value = F.linear(self._normed(tokens, 0), self.qkv).chunk(3, dim=-1)
        tokens += F.linear(self._attend(query, key, value), *self.out1)
        query = F.linear(self._normed(tokens, 1), self.query)
        key, value = keyvalues[..., self.place].chunk(2, dim=-1)
        tokens += F.linear(self._attend(query, key, value), *self.out2)
        hidden, gate = F.linear(self._normed(tokens, 2), *self.gated).chunk(2, dim=-1)
        tokens += F.linear(hidden * F.gelu(gate), *self.out3)
        return tokens

    def _normed(self, tokens: Tensor, number: int) -> Tensor:
        return F.layer_norm(tokens, self.width, *self.norms[number])

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value)
        )
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


class _Convolution:
    """conv2d. On a CPU the weight is stored in oneDNN's own order; otherwise each call would reorder it first."""

    def __init__(self, weight: Tensor, bias: Tensor, stride: int) -> None:
        self.bias = bias
        padding = weight.shape[-1] // 2
        self._shape = [padding, padding], [stride, stride], [1, 1], 1
        self._is_packed = _can_pack(weight)
        if self._is_packed:
            self.weight = torch._C._nn.mkldnn_reorder_conv2d_weight(
                weight.contiguous().to_mkldnn(), *self._shape
            )
        elif weight.device.type == "mps":
            self.weight = weight.contiguous()
        else:
            self.weight = weight.contiguous(memory_format=torch.channels_last)

    def __call__(self, values: Tensor, step: int | None = None) -> Tensor:
        bias = self.bias if step is None else self.bias[step]
        padding, stride, dilation, groups = self._shape
        if self._is_packed:
            return torch.ops.mkldnn._convolution_pointwise(
                values, self.weight, bias, padding, stride, dilation, groups, "none", [], ""
            )
        return F.conv2d(values, self.weight, bias, stride, padding, dilation, groups)


def _can_pack(weight: Tensor) -> bool:
    """Return whether oneDNN convolves with reordered weights of this type here: bfloat16 needs AVX-512, for example."""
    operators = torch.ops.mkldnn
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(operators, "_convolution_pointwise"):
        return False
    if weight.dtype == torch.bfloat16:
        return operators._is_mkldnn_bf16_supported()
    return weight.dtype == torch.float32 or operators._is_mkldnn_fp16_supported()


class _Norm:
    """GroupNorm."""

    def __init__(self, weight: Tensor, bias: Tensor, groups: int, eps: float) -> None:
        self.weight, self.bias, self.groups, self.eps = weight, bias, groups, eps

    def __call__(self, values: Tensor) -> Tensor:
        # Contiguous: in channels_last a CPU takes ten times as long in bf16, and a GPU copies anyway.
        return F.group_norm(values.contiguous(), self.groups, self.weight, self.bias, self.eps)


# --- from names to layers -------------------------------------------------------------------------
class _Taking:
    """Takes each tensor once, in the form used."""

    def __init__(self, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self.groups, self.eps = config["norm_num_groups"], config["norm_eps"]
        self.keyvalue_weights: list[Tensor] = []
        self._keyvalue_width = 0

    def has(self, name: str) -> bool:
        return name in self.tensors

    def __call__(self, name: str) -> Tensor:
        return self.tensors.pop(name)

    def pair(self, name: str) -> tuple[Tensor, Tensor]:
        return self(f"{name}.weight"), self(f"{name}.bias")

    def linear(self, name: str) -> tuple[Tensor, Tensor]:
        """Return a linear layer; a 1×1 convolution is one too."""
        weight, bias = self.pair(name)
        return weight.flatten(1), bias

    def convolution(self, name: str, *, stride: int = 1) -> _Convolution:
        return _Convolution(*self.pair(name), stride)

    def norm(self, name: str, *, eps: float | None = None) -> _Norm:
        return _Norm(*self.pair(name), self.groups, self.eps if eps is None else eps)

    def keyvalues(self, name: str) -> slice:
        """Return the range of this attention's keys and values in a row of `FoldedUNet.keyvalues`."""
        start = self._keyvalue_width
        for part in "kv":
            weight = self(f"{name}.to_{part}.weight")
            self.keyvalue_weights.append(weight)
            self._keyvalue_width += len(weight)
        return slice(start, self._keyvalue_width)


def _require_shapes(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    bias = tensors.get("down_blocks.0.resnets.0.conv1.bias")
    expected = folding.shapes(config, len(bias) if bias is not None else 1)
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            raise ReleaseInvalid(f"The weights of unet lack {name}.")
        if name not in expected:
            raise ReleaseInvalid(
                f"The weights of unet have {name}, which its config.json does not have."
            )
        if tensors[name].shape != expected[name]:
            raise ReleaseInvalid(
                f"unet: {name} has the shape {tuple(tensors[name].shape)}, not {tuple(expected[name])}."
            )
