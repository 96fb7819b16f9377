"""A folded U-Net as plain modules.

It computes the same as diffusers' UNet2DConditionModel with less overhead: at batch size one on a CPU, half of
diffusers' time is Python. Keys and values of the cross-attentions are inputs (`keyvalues`): they depend on the prompt
only.
"""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generation.engine import folding
from generation.engine.errors import ReleaseInvalid


class FoldedUNet(nn.Module):
    """One student on one device, frozen. `config` has diffusers' fields."""

    def __init__(self, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
        """tensors: result of `folding.fold`, on the device and in its dtype. Raises ReleaseInvalid.

        They are removed from the dictionary one by one, to avoid a second copy of all of them.
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
        self.down = nn.ModuleList(_Stage(take, f"down_blocks.{i}", heads[i]) for i in range(levels))
        self.mid = _Stage(take, "mid_block", heads[-1])  # may be empty
        self.up = nn.ModuleList(
            _Stage(take, f"up_blocks.{i}", heads[-1 - i]) for i in range(levels)
        )
        self.norm_out = take.norm("conv_norm_out")
        self.conv_out = take.convolution("conv_out")
        # One product gives the keys and values of all cross-attentions.
        self.keyvalue_weight = nn.Buffer(torch.cat(take.keyvalue_weights))

    @property
    def dtype(self) -> torch.dtype:
        return self.keyvalue_weight.dtype

    def keyvalues(self, prompt_embeds: Tensor) -> Tensor:
        """Return keys and values of all cross-attentions, [tokens, sum of widths], for an embedding [tokens, width]."""
        return F.linear(prompt_embeds, self.keyvalue_weight)

    def forward(self, latents: Tensor, step: int | Tensor, keyvalues: Tensor) -> Tensor:
        """Return the prediction at the step-th of the folded timesteps, from 0. A tensor's step is int64 [].

        latents: [batch, channels, height, width]; keyvalues: [batch, tokens, sum of widths], rows of `keyvalues`.
        """
        hidden_states = self.conv_in(latents)
        skips = [hidden_states]
        for stage in cast("list[_Stage]", self.down):
            for layer in stage.layers:
                hidden_states = layer(hidden_states, step, keyvalues)
                skips.append(hidden_states)
            if stage.resampler is not None:
                hidden_states = stage.resampler(hidden_states)
                skips.append(hidden_states)
        for layer in self.mid.layers:
            hidden_states = layer(hidden_states, step, keyvalues)
        for stage in cast("list[_Stage]", self.up):
            for layer in stage.layers:
                hidden_states = torch.cat([hidden_states, skips.pop()], dim=1)
                hidden_states = layer(hidden_states, step, keyvalues)
            if stage.resampler is not None:
                hidden_states = F.interpolate(hidden_states, size=skips[-1].shape[2:])
                hidden_states = stage.resampler(hidden_states)
        return self.conv_out(F.silu(self.norm_out(hidden_states)))


# --- stages and layers ----------------------------------------------------------------------------
class _Stage(nn.Module):
    """Layers of one resolution, and the convolution to the next."""

    def __init__(self, take: "_Taking", name: str, heads: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        while take.has(f"{name}.resnets.{len(self.layers)}.conv1.weight"):
            self.layers.append(_Layer(take, name, len(self.layers), heads))
        self.resampler = None
        if take.has(f"{name}.downsamplers.0.conv.weight"):
            self.resampler = take.convolution(f"{name}.downsamplers.0.conv", stride=2)
        elif take.has(f"{name}.upsamplers.0.conv.weight"):
            self.resampler = take.convolution(f"{name}.upsamplers.0.conv")


class _Layer(nn.Module):
    """A residual block and its optional attention."""

    def __init__(self, take: "_Taking", stage: str, number: int, heads: int) -> None:
        super().__init__()
        name, attention = f"{stage}.resnets.{number}", f"{stage}.attentions.{number}"
        self.norm1, self.norm2 = take.norm(f"{name}.norm1"), take.norm(f"{name}.norm2")
        self.conv1 = take.convolution(f"{name}.conv1")
        self.conv2 = take.convolution(f"{name}.conv2")
        self.shortcut = self.attention = None
        if take.has(f"{name}.conv_shortcut.weight"):
            self.shortcut = take.convolution(f"{name}.conv_shortcut")
        if take.has(f"{attention}.norm.weight"):
            self.attention = _Attention(take, attention, heads)

    def forward(self, values: Tensor, step: int | Tensor, keyvalues: Tensor) -> Tensor:
        changed = self.conv1(F.silu(self.norm1(values)), step)
        changed = self.conv2(F.silu(self.norm2(changed)))
        changed = changed + (values if self.shortcut is None else self.shortcut(values))
        return changed if self.attention is None else self.attention(changed, keyvalues)


class _Attention(nn.Module):
    """diffusers' Transformer2DModel: self-attention, cross-attention and a gated layer, once or more."""

    def __init__(self, take: "_Taking", name: str, heads: int) -> None:
        super().__init__()
        self.norm = take.norm(f"{name}.norm", eps=1e-6)
        self.proj_in, self.proj_out = (
            take.linear(f"{name}.proj_in"),
            take.linear(f"{name}.proj_out"),
        )
        self.blocks = nn.ModuleList()
        while take.has(f"{name}.transformer_blocks.{len(self.blocks)}.norm1.weight"):
            self.blocks.append(_Block(take, f"{name}.transformer_blocks.{len(self.blocks)}", heads))

    def forward(self, values: Tensor, keyvalues: Tensor) -> Tensor:
        height, width = values.shape[2:]
        tokens = self.proj_in(self.norm(values).permute(0, 2, 3, 1).flatten(1, 2))
        for block in self.blocks:
            tokens = block(tokens, keyvalues)
        changed = self.proj_out(tokens).unflatten(1, (height, width))
        return changed.permute(0, 3, 1, 2) + values


class _Block(nn.Module):
    def __init__(self, take: "_Taking", name: str, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2, self.norm3 = (
            take.layer_norm(f"{name}.norm{number}") for number in (1, 2, 3)
        )
        self.qkv = take.stacked([f"{name}.attn1.to_{part}" for part in "qkv"])
        self.out1 = take.linear(f"{name}.attn1.to_out.0")
        self.query = take.stacked([f"{name}.attn2.to_q"])
        self.place = take.keyvalues(f"{name}.attn2")
        self.out2 = take.linear(f"{name}.attn2.to_out.0")
        self.gated = take.linear(f"{name}.ff.net.0.proj")
        self.out3 = take.linear(f"{name}.ff.net.2")

    def forward(self, tokens: Tensor, keyvalues: Tensor) -> Tensor:
        query, key, value = self.qkv(self.norm1(tokens)).chunk(3, dim=-1)
        tokens = tokens + self.out1(self._attend(query, key, value))
        key, value = keyvalues[..., self.place].chunk(2, dim=-1)
        tokens = tokens + self.out2(self._attend(self.query(self.norm2(tokens)), key, value))
        hidden, gate = self.gated(self.norm3(tokens)).chunk(2, dim=-1)
        return tokens + self.out3(hidden * F.gelu(gate))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value)
        )
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


class _Convolution(nn.Module):
    """conv2d; `step` selects the bias of a folded timestep."""

    def __init__(self, weight: Tensor, bias: Tensor, stride: int) -> None:
        super().__init__()
        # In channels_last convolutions of CPUs and tensor cores are faster.
        is_mps = weight.device.type == "mps"
        layout = torch.contiguous_format if is_mps else torch.channels_last
        self.weight = nn.Buffer(weight.contiguous(memory_format=layout))
        self.bias = nn.Buffer(bias)
        self.stride, self.padding = stride, weight.shape[-1] // 2

    def forward(self, values: Tensor, step: int | Tensor | None = None) -> Tensor:
        bias = self.bias if step is None else self._bias_of(step)
        return F.conv2d(values, self.weight, bias, self.stride, self.padding)

    def _bias_of(self, step: int | Tensor) -> Tensor:
        if isinstance(step, Tensor):
            # self.bias[step] would wait for the value of step, which a CUDA graph cannot.
            return self.bias.index_select(0, step.view(1)).squeeze(0)
        return self.bias[step]


class _Norm(nn.Module):
    """GroupNorm."""

    def __init__(self, weight: Tensor, bias: Tensor, groups: int, eps: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Buffer(weight), nn.Buffer(bias)
        self.groups, self.eps = groups, eps

    def forward(self, values: Tensor) -> Tensor:
        # Contiguous: in channels_last a CPU takes ten times as long in bf16, and a GPU copies anyway.
        return F.group_norm(values.contiguous(), self.groups, self.weight, self.bias, self.eps)


class _LayerNorm(nn.Module):
    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Buffer(weight), nn.Buffer(bias)

    def forward(self, values: Tensor) -> Tensor:
        return F.layer_norm(values, self.weight.shape, self.weight, self.bias)


class _Linear(nn.Module):
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight, self.bias = nn.Buffer(weight), bias if bias is None else nn.Buffer(bias)

    def forward(self, values: Tensor) -> Tensor:
        return F.linear(values, self.weight, self.bias)


# --- from names to layers -------------------------------------------------------------------------
class _Taking:
    """Builds layers from named tensors, taking each tensor once."""

    def __init__(self, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self.groups, self.eps = config["norm_num_groups"], config["norm_eps"]
        self.keyvalue_weights: list[Tensor] = []
        self._keyvalue_width = 0

    def has(self, name: str) -> bool:
        return name in self.tensors

    def __call__(self, name: str) -> Tensor:
        return self.tensors.pop(name)

    def linear(self, name: str) -> _Linear:
        """Return a linear layer, also from a 1×1 convolution."""
        weight, bias = self._pair(name)
        return _Linear(weight.flatten(1), bias)

    def stacked(self, names: Sequence[str]) -> _Linear:
        """Return several linear layers without bias and with the same input as one layer."""
        return _Linear(torch.cat([self(f"{name}.weight") for name in names]), None)

    def convolution(self, name: str, *, stride: int = 1) -> _Convolution:
        return _Convolution(*self._pair(name), stride)

    def norm(self, name: str, *, eps: float | None = None) -> _Norm:
        return _Norm(*self._pair(name), self.groups, self.eps if eps is None else eps)

    def layer_norm(self, name: str) -> _LayerNorm:
        return _LayerNorm(*self._pair(name))

    def _pair(self, name: str) -> tuple[Tensor, Tensor]:
        return self(f"{name}.weight"), self(f"{name}.bias")

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
