"""The interface between the training loop and a training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from distillation.training import checks, optimizers
from distillation.training.ema import Ema

MAX_SEED = 2**63 - 1  # largest seed of torch's generator


class Task(Protocol):
    """A training. All state that must survive an interruption is in `modules`, `optimizers` and `emas`."""

    @property
    def modules(self) -> Mapping[str, torch.nn.Module]: ...

    @property
    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]: ...

    @property
    def emas(self) -> Mapping[str, Ema]: ...

    def step(self, index: int, generator: torch.Generator) -> dict[str, float]:
        """Make one update; return the losses by name. `generator` (CPU) is seeded by the run's seed and `index` alone.

        Random draws must come from `generator`, or from torch's global generator (as dropout's do), which is seeded the
        same way: a resumed run then draws the same as an uninterrupted one.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """Common fields of recipes of trainings with averaged weights. learning_rate: the peak, after `warmup` steps."""

    steps: int
    batch: int
    learning_rate: float
    warmup: int
    betas: tuple[float, float] = (0.9, 0.99)
    clipped_norm: float = 1.0
    ema_decay: float = 0.99
    seed: int = 0

    def __post_init__(self) -> None:
        checks.at_least_1(self, "batch")
        checks.positive(self, "learning_rate", "clipped_norm")
        checks.below_1(self, "ema_decay")
        checks.at_most(self, "seed", MAX_SEED, "the largest")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must lie from 0 to below 1, not {self.betas}.")


class Trained:
    """Trained networks by name, with their optimisers and averages: the state of a Task."""

    def __init__(self) -> None:
        self.modules: dict[str, torch.nn.Module] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.emas: dict[str, Ema] = {}

    def add(
        self,
        name: str,
        module: torch.nn.Module,
        *,
        learning_rate: float,
        weight_decay: float,
        betas: tuple[float, float],
        ema_decay: float | None = None,
        is_muon: bool = False,
    ) -> None:
        """Add a module to train by AdamW or Muon, from its present weights. ema_decay: None = no average."""
        self.modules[name] = module
        self.optimizers[name] = (
            optimizers.muon(
                module, learning_rate=learning_rate, weight_decay=weight_decay, betas=betas
            )
            if is_muon
            else optimizers.adamw(
                module,
                learning_rate=learning_rate,
                weight_decay=weight_decay,
                betas=betas,
                fused=True,
            )
        )
        if ema_decay is not None:
            self.emas[name] = Ema(module, ema_decay)

    def add_by(
        self,
        recipe: TrainingRecipe,
        name: str,
        module: torch.nn.Module,
        *,
        weight_decay: float,
        is_muon: bool = False,
    ) -> None:
        """Add a module to train with the recipe's settings, with an average."""
        self.add(
            name,
            module,
            learning_rate=recipe.learning_rate,
            weight_decay=weight_decay,
            betas=recipe.betas,
            ema_decay=recipe.ema_decay,
            is_muon=is_muon,
        )

    def update(self, name: str, loss: torch.Tensor, *, clipped_norm: float) -> float:
        """Update the module and its average by the loss; return the norm of the gradient before clipping."""
        norm = optimizers.update(self.optimizers[name], loss, clipped_norm=clipped_norm)
        if name in self.emas:
            self.emas[name].update()
        return norm


@dataclass(frozen=True)
class Progress:
    """step: updates made; steps: their total number; seconds: of training in all sessions."""

    step: int
    steps: int
    seconds: float
