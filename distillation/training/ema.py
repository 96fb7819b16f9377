"""Exponential moving average of a network's weights."""

import copy

import torch


class Ema:
    """A frozen, averaged copy of `module`: copy ← d · copy + (1 − d) · module, with d = min(decay, (1+n)/(10+n)).

    The lower decay of the first updates (the usual warm-up) quickly reduces the influence of the initial weights.
    """

    def __init__(self, module: torch.nn.Module, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"The decay must be in [0, 1), not {decay}.")
        self._source = module
        self.decay = decay
        self.updates = 0
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self) -> None:
        """Update the average once. Buffers (running statistics, tables) are copied, not averaged."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for average, value in zip(self.module.parameters(), self._source.parameters(), strict=True):
            average.lerp_(value.to(average.dtype), 1 - decay)
        for copied, buffer in zip(self.module.buffers(), self._source.buffers(), strict=True):
            copied.copy_(buffer)
