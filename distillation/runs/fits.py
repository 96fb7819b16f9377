"""Fit of a recipe to the releases of a run: why the worker, which compares them, would refuse it. Loads no torch."""

from collections.abc import Mapping
from typing import Any

from distillation.pipeline.summaries import FITS
from generation.models import Release


def unfit(recipe: Mapping[str, Any], teacher: Release, student: Release | None) -> tuple[str, ...]:
    """Return the reasons why the recipe does not fit the teacher, or the student to continue if one is given."""
    found = [unfit_teacher(recipe, teacher)]
    if student is not None:
        found.append(unfit_student(recipe, student))
    return tuple(reason for reason in found if reason is not None)


def unfit_teacher(recipe: Mapping[str, Any], teacher: Release) -> str | None:
    """Return why the recipe does not fit the teacher; None if it fits."""
    size = recipe.get("image_size", FITS[recipe["recipe"]].image_size)
    width, height = teacher.image_sizes[0]
    if (width, height) == (size, size):
        return None
    return (
        f"The recipe is for teachers of {size} × {size} pixels, and {teacher} makes {width} × {height}: "
        "choose another recipe."
    )


def unfit_student(recipe: Mapping[str, Any], student: Release) -> str | None:
    """Return why the recipe cannot continue the student; None if it can."""
    fit = FITS[recipe["recipe"]]
    if recipe.get("again", fit.again_steps) is None:
        return "The recipe has no joint training that continues a student: derive a new one from the teacher."
    timesteps = list(recipe.get("timesteps", fit.timesteps))
    if list(student.manifest["timesteps"]) != timesteps:
        return (
            f"The recipe makes a student of {len(timesteps)} passes at {timesteps}, and {student} has "
            f"{list(student.manifest['timesteps'])}: derive a new student from the teacher."
        )
    return None
