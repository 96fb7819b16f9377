"""Interface between the structure stage and a method: its objective, and the inputs it is made from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Generator, Tensor, nn

from distillation.trainers.inputs import StageInputs
from distillation.trainers.objectives import passes
from distillation.trainers.objectives.batches import Batch, Batches
from distillation.trainers.student import StudentRecipe
from distillation.trainers.teacher import Teacher


@dataclass(frozen=True)
class Sources:
    """Inputs of an objective. In the stage's folder it keeps what is estimated once."""

    inputs: StageInputs
    student_recipe: StudentRecipe
    batches: Batches

    @property
    def teacher(self) -> Teacher:
        return self.inputs.teacher


class Objective(Protocol):
    """Made once for a training by `make` of the method's recipe, which raises RecipeRefused and names the field."""

    @property
    def listens_to(self) -> "Listened":
        """The modules whose outputs it compares."""
        ...

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """What is trained in addition to the student, by name; empty for most."""
        ...

    def losses(self, batch: Batch, generator: Generator) -> dict[str, Tensor]:
        """Return scalars whose sum is the loss, by name, from passes of student and teacher. generator: on the CPU."""
        ...


class StudentObjective:
    """Base of objectives that train a student towards its teacher guided at one scale."""

    def __init__(
        self, sources: Sources, student: UNet2DConditionModel, guidance_scale: float | None
    ) -> None:
        """guidance_scale: the teacher's own if None. Raises RecipeRefused where the teacher cannot be guided."""
        self._teacher = sources.teacher
        self._student = student
        self._scale = passes.scale_of(sources.teacher, guidance_scale, field="guidance_scale")
        self.listens_to = Listened()
        self.modules: dict[str, nn.Module] = {}


@dataclass(frozen=True)
class Listened:
    """Names of modules, as `get_submodule` takes them."""

    teacher: tuple[str, ...] = ()
    student: tuple[str, ...] = ()
