"""Counts of right pictures by prompt: from the evaluations of a run to the evaluated releases. Imports no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillation.reports import evaluations
from generation.engine.prompts.texts import normalize
from generation.models import Release
from generation.releases import quality
from generation.releases.quality import Counts


def record(made: Mapping[str, Path]) -> None:
    """Store the counts of the student, the teacher and the release that it may replace, if they are registered.

    made: the folders of the run's stages.
    """
    for stage in (
        "incumbent",
        "evaluation",
    ):  # the second one judges all prompts, so its figures of the teacher stay
        figures = None if stage not in made else evaluations.figures(made[stage])
        if figures is not None:
            for side in ("student", "teacher"):
                _record(figures, side)


def _record(figures: Mapping[str, Any], side: str) -> None:
    release = Release.objects.filter(name=figures[side]["name"]).first()
    if release is None:
        return
    seeds = figures["seeds_each"]
    counts = {
        normalize(prompt["text"]): Counts(round(prompt["right"][side] * seeds), seeds)
        for prompt in figures["per_prompt"]
        if prompt["right"] is not None
    }
    quality.record_evaluation(release, counts)
