"""Search space of a design: the axes around a recipe, and the recipe of each choice.

A choice has one value on each axis. The axes come from the recipe and its teacher: cuts and widths that fit the
teacher, passes that start at stored points of its path, decoders with the same upscaling factor as its VAE.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch

from distillation.design.candidates import Params
from distillation.pipeline import overrides
from distillation.pipeline.recipes import WEIGHTS, Recipe
from distillation.students import channels, cuts, widths
from distillation.students.errors import StudentRefused
from distillation.students.unets import UNetShape
from distillation.trainers.decoder import DecoderRecipe
from distillation.trainers.objectives.methods import METHODS
from distillation.trainers.structure import StructureRecipe
from distillation.trainers.teacher import Teacher
from distillation.training.errors import RecipeRefused
from generation.engine.latents import pixels_per_latent

WHOLE = "whole"  # the cut that keeps all blocks
WIDTHS = ("1", "7/8", "3/4", "5/8", "1/2", "3/8", "1/4")
CHANNELS = (0.5, 0.75, 1.0, 1.5)  # of the recipe's decoder
DEPTHS = (1, 2, 4)  # residual blocks of a decoder's first level
LEVELS = range(1, 5)  # of a decoder
MAX_SHUFFLE = 4  # factor of a decoder's pixel shuffle; more would show as tiles
# `ensemble` needs teachers that a person names; `scratch` exists only as a baseline.
LEFT_OUT = ("ensemble", "scratch")
ORDERED = ("width", "channels", "depth", "shuffle")  # axes whose values have an order
# Axes that determine the costs; the training method does not.
SERVED = ("cut", "width", "timesteps", "channels", "depth", "shuffle", "weights")


@dataclass(frozen=True)
class Space:
    """The values of each axis by its name, at least one each. students: pairs (cut, width) that fit the teacher."""

    recipe: Recipe
    axes: Mapping[str, tuple[str | int, ...]]
    students: frozenset[tuple[str, str]]
    factor: int  # pixels per latent along one side

    def everything(self) -> Iterator[Params]:
        """Yield all choices, in a fixed order."""
        for values in itertools.product(*self.axes.values()):
            params = dict(zip(self.axes, values, strict=True))
            if self.fits(params):
                yield params

    def fits(self, params: Params) -> bool:
        """Return whether the choice is one of the space's."""
        if any(params.get(name) not in values for name, values in self.axes.items()):
            return False
        return (str(params["cut"]), str(params["width"])) in self.students

    def first(self) -> Params:
        """Return the choice that is the recipe itself."""
        recipe = self.recipe
        decoder, structure = _decoder(recipe), _structure(recipe)
        return {
            "cut": recipe.student.cut or WHOLE,
            "width": str(recipe.student.share),
            "timesteps": _text(recipe.timesteps),
            "channels": decoder.channels,
            "depth": decoder.blocks[0],
            "shuffle": decoder.shuffle,
            "method": structure.objective.method,
            "weights": recipe.weights,
        }

    def changes(self, params: Params) -> dict[str, Any]:
        """Return the choice as changes of the recipe, for `overrides.changed` and recipe files."""
        recipe, first = self.recipe, self.first()
        params = {**first, **params}  # rows stored before an axis was added lack it
        timesteps = [int(text) for text in str(params["timesteps"]).split()]
        found: dict[str, Any] = {
            "student": {
                "cut": None if params["cut"] == WHOLE else params["cut"],
                "width": params["width"],
            },
            "timesteps": timesteps,
            "decoder": {
                "channels": params["channels"],
                "blocks": list(self._blocks(params)),
                "shuffle": params["shuffle"],
            },
            "weights": params["weights"],
        }
        if params["timesteps"] != first["timesteps"]:
            later = len(timesteps) - 1
            simulated = recipe.regression.simulated if recipe.regression else None
            found["regression"] = {
                "pass_weights": [1.0] * len(timesteps),
                "simulated": (0.5 if simulated is None else simulated) if later else None,
            }
        if params["method"] != first["method"]:
            # Weight decay is a prior around zero and contradicts that of `bayes` (`structure.StructureRecipe`).
            decay = (
                0.0
                if params["method"] == "bayes"
                else (_structure(recipe).weight_decay or StructureRecipe.weight_decay)
            )
            found["structure"] = {
                "objective": {"method": params["method"]},
                "weight_decay": decay,
            }
        return found

    def recipe_of(self, params: Params) -> Recipe:
        """Return the recipe of the choice. Raises RecipeRefused."""
        return overrides.changed(self.recipe, self.changes(params))

    def _blocks(self, params: Params) -> tuple[int, ...]:
        """Return the number of residual blocks per level: most at the lowest resolution, where they cost least."""
        own = _decoder(self.recipe)
        depth, shuffle = int(params["depth"]), int(params["shuffle"])
        if (depth, shuffle) == (own.blocks[0], own.shuffle):
            return own.blocks
        levels = _levels(self.factor, shuffle)
        return tuple(
            depth if level == 0 else 0 if shuffle == 1 and level == levels - 1 else min(depth, 1)
            for level in range(levels)
        )


def of(recipe: Recipe, teacher: Teacher) -> Space:
    """Return the space around the recipe. Raises RecipeRefused for a recipe that cannot be trained in rungs."""
    if recipe.is_warm or recipe.regression is None or recipe.joint is None:
        raise RecipeRefused(
            f"A design trains structure, regression and joint in turn; the recipe {recipe.name} leaves one out. "
            "Give a recipe with all three, such as starter-1step."
        )
    if recipe.student.cut is not None and cuts.cut_named(recipe.student.cut).loses_least:
        raise RecipeRefused(
            f"student.cut ({recipe.student.cut}): which blocks are removed is decided during training, but a design "
            "measures costs before it. Give the cut that `distill` made, such as 'small', or another."
        )
    decoder = _decoder(recipe)
    students = frozenset(_students(UNetShape(teacher.unet.config), recipe))
    factor = pixels_per_latent(teacher.vae.config)
    shuffles = [
        2**power for power in range(5)
        if 2**power <= MAX_SHUFFLE and factor % 2**power == 0 and _levels(factor, 2**power) in LEVELS
    ]  # fmt: skip
    axes: dict[str, tuple[str | int, ...]] = {
        "cut": tuple(dict.fromkeys(cut for cut in (*cuts.CUTS, WHOLE) if cut in dict(students))),
        "width": tuple(
            sorted({width for _, width in students}, key=Fraction, reverse=True),
        ),
        "timesteps": tuple(_passes(recipe)),
        "channels": tuple(
            sorted({decoder.channels, *(max(4, round(decoder.channels * s / 8) * 8) for s in CHANNELS)})
        ),
        "depth": tuple(sorted({decoder.blocks[0], *DEPTHS})),
        "shuffle": tuple(sorted({decoder.shuffle, *shuffles})),
        "method": tuple(name for name in METHODS if name not in LEFT_OUT),
        "weights": WEIGHTS,
    }  # fmt: skip
    own = Space(recipe, axes, students, factor).first()
    for (
        name,
        value,
    ) in own.items():  # a value of the recipe that no axis has, such as other timesteps
        if value not in axes[name]:
            axes[name] = (*axes[name], value)
    return Space(recipe, axes, students, factor)


def _students(shape: UNetShape, recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yield the pairs (cut, width) that fit the teacher."""
    own = str(recipe.student.share)
    for name in (*(name for name, cut in cuts.CUTS.items() if not cut.loses_least), WHOLE):
        try:
            left = shape if name == WHOLE else cuts.student_shape(shape, cuts.cut_named(name))
        except StudentRefused:
            continue
        scores = {
            space: torch.ones(part.channels) for space, part in channels.layout(left).spaces.items()
        }
        for width in dict.fromkeys((own, *WIDTHS)):
            if name == WHOLE and width == "1":
                continue  # the teacher itself
            try:
                if width != "1":
                    widths.plan(left, Fraction(width), scores=scores, may_mix_norms=True)
            except StudentRefused:
                continue
            yield name, width


def _passes(recipe: Recipe) -> Iterator[str]:
    """Yield the timesteps of one, two and four passes; later passes start at stored points of the teacher's path."""
    first = recipe.timesteps[0]
    points = [point for point in recipe.pairs.path_timesteps if point < first]
    found = [(first,), *((first, point) for point in points), (first, *points[:3])]
    yield from dict.fromkeys(
        _text(timesteps)
        for timesteps in (recipe.timesteps, *(each for each in found if len(each) in (1, 2, 4)))
    )


def _levels(factor: int, shuffle: int) -> int:
    return (factor // shuffle).bit_length()


def _text(timesteps: tuple[int, ...]) -> str:
    return " ".join(map(str, timesteps))


def _decoder(recipe: Recipe) -> DecoderRecipe:
    if recipe.decoder is None:
        raise RecipeRefused(f"decoder: the recipe {recipe.name} trains none. Set it.")
    return recipe.decoder


def _structure(recipe: Recipe) -> StructureRecipe:
    if recipe.structure is None:
        raise RecipeRefused(f"structure: the recipe {recipe.name} leaves it out. Set it.")
    return recipe.structure
