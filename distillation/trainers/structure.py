"""Stage `structure`: training of a student with fewer blocks or channels than its teacher, still with many steps.

Later stages, which reduce the steps to one or two, start from its weights. The methods are in `objectives`.
"""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from distillation.losses.noise_regression import noise_regression
from distillation.trainers.inputs import StageInputs, run
from distillation.trainers.objectives.batches import Batch, Batches, Shares
from distillation.trainers.objectives.bayes import BayesRecipe
from distillation.trainers.objectives.ensemble import EnsembleRecipe
from distillation.trainers.objectives.guidance import GuidanceRecipe, ScratchRecipe
from distillation.trainers.objectives.methods import METHODS, MethodRecipe
from distillation.trainers.objectives.protocol import Objective, Sources
from distillation.trainers.sample_sheets import Samples
from distillation.trainers.student import StudentRecipe, make
from distillation.trainers.teacher import Teacher
from distillation.training import checks, loop, networks, processes
from distillation.training.task import Trained, TrainingRecipe
from generation.engine import sampling

NAME = "unet"
SHOWN_STEPS = 10  # of a student of many steps for the sample sheet
WATCHED_SEED = 2**62
WATCH_EVERY = 50  # steps; of the error that all methods have in common


@dataclass(frozen=True)
class StructureRecipe(Shares, TrainingRecipe):
    """The method and the hyper-parameters of its training.

    The learning rate rises in `warmup` steps, then falls by half a cosine to zero. path_share, first_timestep_share,
    min_snr_gamma, weight_floor: see `objectives.batches`.
    """

    objective: MethodRecipe = field(default_factory=GuidanceRecipe)
    steps: int = 2000
    batch: int = 32
    learning_rate: float = 5e-4
    warmup: int = 100
    weight_decay: float = 0.01  # of matrices and kernels only
    ema_decay: float = 0.999

    def __post_init__(self) -> None:
        Shares.__post_init__(self)
        TrainingRecipe.__post_init__(self)
        if not isinstance(self.objective, tuple(METHODS.values())):
            raise ValueError(f"objective must be the recipe of a method: {', '.join(METHODS)}.")
        checks.at_least_1(self, "steps")
        checks.not_negative(self, "warmup", "weight_decay")
        if isinstance(self.objective, BayesRecipe) and self.weight_decay:
            raise ValueError(
                f"weight_decay is {self.weight_decay}, a prior around zero; the method bayes has another: give 0."
            )

    def check(self) -> None:
        """Raise RecipeRefused if the method lacks an input that has no default."""
        if isinstance(self.objective, EnsembleRecipe):
            self.objective.check()

    def check_fit(
        self, teacher: Teacher, student_recipe: StudentRecipe, *, has_paths: bool
    ) -> None:
        """Raise RecipeRefused, TeacherRefused if the method or a batch contradicts teacher, student or pairs."""
        self.split(processes.share(self.batch), has_paths=has_paths)
        objective = self.objective
        if isinstance(objective, EnsembleRecipe):
            objective.others(teacher)
            return
        teacher.scale_of(objective.guidance_scale, field="objective.guidance_scale")
        if isinstance(objective, GuidanceRecipe):
            objective.paired(teacher, student_recipe)

    @property
    def further_teachers(self) -> tuple[str, ...]:
        """Return the folders of the releases of additional teachers."""
        return self.objective.teachers if isinstance(self.objective, EnsembleRecipe) else ()


class StructureTask(Trained):
    """The student under training, for `distillation.training.loop`."""

    def __init__(
        self,
        recipe: StructureRecipe,
        *,
        student: UNet2DConditionModel,
        objective: Objective,
        batches: Batches,
        teacher: Teacher,
    ) -> None:
        super().__init__()
        self._recipe = recipe
        self._teacher = teacher
        self._objective = objective
        self._batches = batches
        self.add_by(recipe, NAME, student.train(), weight_decay=recipe.weight_decay)
        self.modules |= objective.modules
        for module in objective.modules.values():
            group = {"params": list(module.parameters()), "weight_decay": 0.0}
            self.optimizers[NAME].add_param_group(group)

    @property
    def averaged(self) -> UNet2DConditionModel:
        """Return the student to save: with averaged weights, frozen, in evaluation mode."""
        return self.emas[NAME].module

    def pictures(self, samples: Samples) -> Tensor:
        """Return the averaged student's pictures after SHOWN_STEPS passes and the VAE, [B, 3, H, W] in [−1, 1]."""
        config = self._teacher.scheduler_config | {"timestep_spacing": "trailing"}
        timesteps = sampling.default_timesteps(config, SHOWN_STEPS)
        return self._teacher.decode(samples.walked(self.averaged, timesteps))

    @cached_property
    def _watched(self) -> tuple[Batch, Tensor]:
        """Return a fixed batch, and the guided teacher's predictions for it, fp32 [B, C, h, w]."""
        batch = self._batches.draw(torch.Generator().manual_seed(WATCHED_SEED))
        target = self._teacher.predict(*batch.inputs)
        return batch, target

    @torch.no_grad()
    def _watch(self, index: int) -> dict[str, float]:
        """Return the averaged student's squared error, in every WATCH_EVERY-th step and the last; else nothing."""
        if (index + 1) % WATCH_EVERY and index + 1 < self._recipe.steps:
            return {}
        batch, target = self._watched
        prediction = self._teacher.passed(self.averaged, *batch.inputs)
        return {"watched_error": float(noise_regression(prediction, target))}

    def step(self, index: int, generator: torch.Generator) -> dict[str, float]:
        recipe = self._recipe
        loop.anneal(self.optimizers[NAME], index, recipe)
        terms = self._objective.losses(self._batches.draw(generator), generator)
        loss = torch.stack(list(terms.values())).sum()
        norm = self.update(NAME, loss, clipped_norm=recipe.clipped_norm)
        values = {name: float(term.detach()) for name, term in terms.items()}
        found = {"loss": float(loss.detach()), **values, "gradient_norm": norm}
        return found | self._watch(index)


def train(
    recipe: StructureRecipe, inputs: StageInputs, *, student_recipe: StudentRecipe
) -> UNet2DConditionModel:
    """Train (resuming from the folder's checkpoint); save the averaged student in folder/unet and return it, frozen.

    Raises RecipeRefused, TrainingDiverged, CheckpointUnusable.
    """
    teacher = inputs.teacher
    batches = Batches(
        recipe,
        size=processes.share(recipe.batch),
        teacher=teacher,
        pairs=inputs.pairs,
        catalogue=inputs.catalogue,
    )
    sources = Sources(inputs=inputs, student_recipe=student_recipe, batches=batches)
    # Only the Bayesian method has a posterior, by which channels are then chosen.
    known = (
        recipe.objective.estimate(sources) if isinstance(recipe.objective, BayesRecipe) else None
    )
    student = make(
        teacher,
        student_recipe,
        posterior=known.posterior if known else None,
        random_seed=recipe.seed if isinstance(recipe.objective, ScratchRecipe) else None,
    )
    task = StructureTask(
        recipe,
        student=student,
        objective=recipe.objective.make(sources, student),
        batches=batches,
        teacher=teacher,
    )
    run(task, recipe, inputs, title="structure", pictures=task.pictures)
    networks.save(task.averaged, inputs.folder / NAME)
    return task.averaged
