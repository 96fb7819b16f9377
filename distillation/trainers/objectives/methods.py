"""Table of the methods of structural training by name."""

from distillation.trainers.objectives.bayes import BayesRecipe
from distillation.trainers.objectives.ensemble import EnsembleRecipe
from distillation.trainers.objectives.guidance import GuidanceRecipe, ScratchRecipe
from distillation.trainers.objectives.hinton import HintonRecipe
from distillation.trainers.objectives.mmd import MmdRecipe

MethodRecipe = (
    GuidanceRecipe | HintonRecipe | EnsembleRecipe | MmdRecipe | BayesRecipe | ScratchRecipe
)

METHODS: dict[str, type[MethodRecipe]] = {
    "guidance": GuidanceRecipe,
    "hinton": HintonRecipe,
    "ensemble": EnsembleRecipe,
    "mmd": MmdRecipe,
    "bayes": BayesRecipe,
    "scratch": ScratchRecipe,
}
