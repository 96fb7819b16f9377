"""Interface between the structure stage and a method: its objective, and the inputs it is made from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Generator, Tensor, nn

from distillation.losses.noise_regression import noise_regression
from distillation.trainers.inputs import StageInputs
from distillation.trainers.objectives.batches import Batch, Batches
from distillation.trainers.perception import tapped
from distillation.trainers.student import StudentRecipe
from distillation.trainers.teacher import Teacher


@dataclass(frozen=True)
class Sources:
    """Inputs of an objective, which may store estimates in the stage's folder."""

    inputs: StageInputs
    student_recipe: StudentRecipe
    batches: Batches

    @property
    def teacher(self) -> Teacher:
        return self.inputs.teacher


class Objective(Protocol):
    """Made once for a training by `make` of the method's recipe, which raises RecipeRefused and names the field."""

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Return the modules that are trained in addition to the student, by name; empty for most objectives."""
        ...

    def losses(self, batch: Batch, generator: Generator) -> dict[str, Tensor]:
        """Return scalars whose sum is the loss, by name, from passes of student and teacher. generator: on the CPU."""
        ...


@dataclass(frozen=True)
class Passed:
    """prediction: the student's; guided: its loss; ours, theirs: outputs of the layers of student and teacher."""

    prediction: Tensor
    guided: Tensor
    ours: list[Tensor]
    theirs: list[Tensor]


class StudentObjective:
    """Base of objectives that train a student towards its teacher guided at one scale."""

    def __init__(
        self, sources: Sources, student: UNet2DConditionModel, guidance_scale: float | None
    ) -> None:
        """guidance_scale: the teacher's own if None. Raises RecipeRefused where the teacher cannot be guided."""
        self._teacher = sources.teacher
        self._student = student
        self._scale = sources.teacher.scale_of(guidance_scale, field="guidance_scale")
        self.modules: dict[str, nn.Module] = {}
        self.teacher_layers: tuple[str, ...] = ()  # whose outputs are compared, names of modules
        self.student_layers: tuple[str, ...] = ()

    def _passed(self, batch: Batch, samples: Tensor | None = None) -> "Passed":
        """Return the passes of the student and the guided teacher. samples: rows whose layer outputs are kept."""
        teacher, scale = self._teacher, self._scale
        with tapped(teacher.unet, self.teacher_layers, samples=samples) as theirs:
            text = teacher.predict(*batch.inputs, guidance_scale=1)
        target = teacher.guide(text, batch.latents, batch.timesteps, guidance_scale=scale)
        with tapped(self._student, self.student_layers, samples=samples) as ours:
            prediction = teacher.passed(self._student, *batch.inputs)
        return Passed(
            prediction,
            noise_regression(prediction, target),
            [ours[name] for name in self.student_layers],
            [theirs[name] for name in self.teacher_layers],
        )
