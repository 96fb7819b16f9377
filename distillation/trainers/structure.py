"""Trains a student of fewer blocks or channels than its teacher; still of many steps. Methods are in `objectives`.

The first stage of a distillation: later ones, which make it a student of one or two steps, start from its weights.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from distillation.trainers.catalogue import Catalogue
from distillation.trainers.objectives.batches import Batches, Shares
from distillation.trainers.objectives.bayes import BayesRecipe
from distillation.trainers.objectives.guidance import GuidanceRecipe
from distillation.trainers.objectives.methods import METHODS, MethodRecipe
from distillation.trainers.objectives.protocol import Objective, Sources
from distillation.trainers.pairs import Pairs
from distillation.trainers.sample_sheets import Samples, sheet_of
from distillation.trainers.student import StudentRecipe, make
from distillation.trainers.teacher import Teacher
from distillation.training import loop, networks, processes
from distillation.training.ema import Ema
from distillation.training.optimizers import adamw, update
from generation.engine import sampling

NAME = "unet"
SHOWN_STEPS = 10  # in which a student of many steps makes its samples


@dataclass(frozen=True)
class StructureRecipe:
    """The method, and how long and on what it is trained.

    The learning rate rises in `warmup` steps, then falls by half a cosine to zero. path_share, first_timestep_share,
    min_snr_gamma, weight_floor: see `objectives.batches`.
    """

    objective: MethodRecipe = field(default_factory=GuidanceRecipe)
    steps: int = 2000
    batch: int = 32
    learning_rate: float = 5e-4
    warmup: int = 100
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01  # of matrices and kernels only
    clipped_norm: float = 1.0
    ema_decay: float = 0.999
    path_share: float = 0.3
    first_timestep_share: float = 0.1
    min_snr_gamma: float = 5.0
    weight_floor: float = 0.35
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.objective, tuple(METHODS.values())):
            raise ValueError(f"objective must be the recipe of a method: {', '.join(METHODS)}.")
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("learning_rate", "clipped_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}.")
        for name in ("warmup", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in 0 … below 1, not {self.ema_decay}.")
        if isinstance(self.objective, BayesRecipe) and self.weight_decay:
            raise ValueError(
                f"weight_decay is {self.weight_decay}, a prior around zero; the method bayes has another: give 0."
            )
        _ = self.shares  # which checks its fields

    @property
    def shares(self) -> Shares:
        return Shares(
            path_share=self.path_share,
            first_timestep_share=self.first_timestep_share,
            min_snr_gamma=self.min_snr_gamma,
            weight_floor=self.weight_floor,
        )


class StructureTask:
    """What is trained, for `loop`."""

    def __init__(
        self,
        recipe: StructureRecipe,
        *,
        student: UNet2DConditionModel,
        objective: Objective,
        batches: Batches,
        teacher: Teacher,
    ) -> None:
        self._recipe = recipe
        self._teacher = teacher
        self._objective = objective
        self._batches = batches
        self._optimizer = adamw(
            student,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            betas=recipe.betas,
            fused=True,
        )
        for module in objective.modules.values():
            group = {"params": list(module.parameters()), "weight_decay": 0.0}
            self._optimizer.add_param_group(group)
        self._ema = Ema(student, recipe.ema_decay)
        self.modules: dict[str, torch.nn.Module] = {NAME: student, **objective.modules}
        self.optimizers: dict[str, torch.optim.Optimizer] = {NAME: self._optimizer}
        self.emas: dict[str, Ema] = {NAME: self._ema}
        student.train()

    @property
    def averaged(self) -> UNet2DConditionModel:
        """What is worth saving: frozen, in evaluation mode."""
        return self._ema.module

    def pictures(self, samples: Samples) -> Tensor:
        """As the averaged student makes them now, in SHOWN_STEPS passes, drawn by the VAE: [B, 3, H, W] in [−1, 1]."""
        config = self._teacher.scheduler_config | {"timestep_spacing": "trailing"}
        timesteps = sampling.default_timesteps(config, SHOWN_STEPS)
        return self._teacher.decode(samples.walked(self.averaged, timesteps))

    def step(self, index: int, generator: torch.Generator) -> dict[str, float]:
        recipe = self._recipe
        loop.anneal(self._optimizer, index, recipe)
        terms = self._objective.losses(self._batches.draw(generator), generator)
        loss = torch.stack(list(terms.values())).sum()
        norm = update(self._optimizer, loss, clipped_norm=recipe.clipped_norm)
        self._ema.update()
        values = {name: float(term.detach()) for name, term in terms.items()}
        return {"loss": float(loss.detach()), **values, "gradient_norm": norm}


def train(
    recipe: StructureRecipe,
    *,
    teacher: Teacher,
    student_recipe: StudentRecipe,
    pairs: Pairs,
    catalogue: Catalogue,
    folder: Path,
    progress_bar: bool = True,
    samples: Samples | None = None,
) -> UNet2DConditionModel:
    """The averaged student, frozen, in evaluation mode, on the teacher's device; also in folder/unet, fp32.

    Goes on from the folder's checkpoint. samples: whose sheet is drawn now and then; None = none. Raises RecipeRefused,
    and what `loop.run` raises.
    """
    sources = Sources(
        teacher=teacher,
        student_recipe=student_recipe,
        pairs=pairs,
        catalogue=catalogue,
        batches=Batches(
            recipe.shares,
            size=processes.share(recipe.batch),
            teacher=teacher,
            pairs=pairs,
            catalogue=catalogue,
        ),
        folder=Path(folder),
        progress_bar=progress_bar,
    )
    # Only the Bayesian method knows how well a weight is known, by which channels are chosen.
    known = (
        recipe.objective.estimate(sources) if isinstance(recipe.objective, BayesRecipe) else None
    )
    student = make(teacher, student_recipe, posterior=known.posterior if known else None)
    task = StructureTask(
        recipe,
        student=student,
        objective=recipe.objective.make(sources, student),
        batches=sources.batches,
        teacher=teacher,
    )
    loop.run(
        task,
        folder,
        steps=recipe.steps,
        seed=recipe.seed,
        title="structure",
        progress_bar=progress_bar,
        draw=sheet_of(samples, folder, task.pictures),
    )
    networks.save(task.averaged, Path(folder) / NAME)
    return task.averaged
