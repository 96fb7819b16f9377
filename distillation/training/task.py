"""What a training loop asks of the thing it trains, and how far it has come. Knows no loop and no files."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from distillation.training.ema import Ema


class Task(Protocol):
    """What is trained. All that must survive an interruption is in `modules`, `optimizers` and `emas`."""

    @property
    def modules(self) -> Mapping[str, torch.nn.Module]: ...

    @property
    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]: ...

    @property
    def emas(self) -> Mapping[str, Ema]: ...

    def step(self, index: int, generator: torch.Generator) -> dict[str, float]:
        """One update; the losses by name. `generator` (on the CPU) is seeded by the run's seed and `index` alone.

        What is drawn must come from `generator`, or from torch's global generator (dropout does), which is seeded the
        same way: a resumed run then draws what an uninterrupted one would have drawn.
        """
        ...


@dataclass(frozen=True)
class Progress:
    """step: updates made; steps: of how many; seconds: trained, in all sessions together."""

    step: int
    steps: int
    seconds: float
