"""What a method of structural training is to the stage, and what it is made from. Knows no method in particular."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Generator, Tensor, nn

from distillation.trainers.catalogue import Catalogue
from distillation.trainers.objectives.batches import Batch, Batches
from distillation.trainers.pairs import Pairs
from distillation.trainers.student import StudentRecipe
from distillation.trainers.teacher import Teacher


@dataclass(frozen=True)
class Sources:
    """What an objective may draw on. folder: the stage's, for what is estimated once and kept."""

    teacher: Teacher
    student_recipe: StudentRecipe
    pairs: Pairs
    catalogue: Catalogue
    batches: Batches
    folder: Path
    progress_bar: bool


class ObjectiveRecipe(Protocol):
    """A frozen dataclass. method: its name in the table of methods."""

    @property
    def method(self) -> str: ...

    def make(self, sources: Sources, student: UNet2DConditionModel) -> "Objective":
        """Raises RecipeRefused, which names the field, for what does not fit the teacher or the student."""
        ...


class Objective(Protocol):
    """Made once for a training."""

    @property
    def listens_to(self) -> "Listened":
        """The modules whose outputs it compares."""
        ...

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """What is trained beside the student, by name; empty for most."""
        ...

    def losses(self, batch: Batch, generator: Generator) -> dict[str, Tensor]:
        """Scalars whose sum is the loss, by name. Passes the student and the teacher. generator: on the CPU."""
        ...


@dataclass(frozen=True)
class Listened:
    """Names of modules, as `get_submodule` takes them."""

    teacher: tuple[str, ...] = ()
    student: tuple[str, ...] = ()
