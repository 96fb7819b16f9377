"""Plan of a run before it starts: its inputs, prompts, expected duration and obstacles. Loads no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.template.defaultfilters import pluralize

from distillation.models import Run
from distillation.pipeline.summaries import FITS
from distillation.reports import durations
from distillation.reports.durations import Measured
from distillation.runs import fits
from distillation.runs import policy as redistillation
from distillation.runs.policy import Facts, Start
from generation.catalogue import variants as catalogue
from generation.models import Release

NAMED = 8  # new prompts listed


@dataclass(frozen=True)
class Plan:
    """unfit: why the recipe does not fit the releases; obstacles: other reasons why it cannot start now; measured: the
    time of earlier runs like it."""

    start: Start
    facts: Facts
    variants: int
    unfit: tuple[str, ...]
    obstacles: tuple[str, ...]
    measured: Measured | None

    @property
    def sentence(self) -> str:
        """Return sentences on the run that would start."""
        start, facts = self.start, self.facts
        how = f"continuing {start.begins_with}" if start.begins_with else f"from {start.teacher}"
        new = len(facts.uncovered) + len(facts.changed)
        covered = f"{new} of them new or changed" if new else "none of them new"
        if start.tags:
            covered = f"those with the tags {', '.join(start.tags)}: it makes a specialist"
        return (
            f"A run of the recipe {start.recipe['recipe']}, {how}, "
            f"for {self.variants} prompt variant{pluralize(self.variants)}, {covered}. "
            + (
                "Only a person can activate its release."
                if redistillation.is_rehearsal(start.recipe)
                else f"Policy: {start.policy.label}."
            )
        )

    @property
    def time(self) -> str:
        """Return a sentence on the expected duration."""
        if self.measured is None:
            start = self.start
            is_warm = start.begins_with is not None
            known = durations.reference(start.recipe, is_warm=is_warm, tags=start.tags)
            if known is None:
                return "No earlier run like it has been measured, so its duration is unknown."
            return f"No earlier run like it has been measured here. It took {known.minutes} minutes on {known.on}."
        of = "1 earlier run" if self.measured.runs == 1 else f"{self.measured.runs} earlier runs"
        return f"About {durations.in_words(self.measured.seconds)} of work, measured in {of}."

    @property
    def named(self) -> str:
        """Return the first slugs of new and changed prompts as text."""
        slugs = [] if self.start.tags else [*self.facts.uncovered, *self.facts.changed]
        return ", ".join(slugs[:NAMED]) + (", …" if len(slugs) > NAMED else "")


def plan(
    *,
    recipe: dict[str, Any] | None = None,
    is_warm: bool = True,
    policy: str | None = None,
    tags: Sequence[str] = (),
    created_by: Any = None,
) -> Plan:
    """Return the plan of the run that `policy.start` would start with these arguments. Raises the same errors."""
    start = redistillation.prepare(
        recipe=recipe, is_warm=is_warm, policy=policy, tags=tags, created_by=created_by
    )
    facts = redistillation.gather()
    obstacles = _open(start.teacher)
    if facts.unencoded:
        obstacles.append(redistillation.unencoded(facts))
    count = facts.variants
    if tags:
        usable = catalogue.usable(start.teacher.encoder_fingerprint)
        count = catalogue.tagged(usable, tags).count()
    most = start.recipe.get("most_variants", FITS[start.recipe["recipe"]].most_variants)
    return Plan(
        start,
        facts,
        min(count, most or count),
        fits.unfit(start.recipe, start.teacher, start.begins_with),
        tuple(obstacles),
        durations.expected(start.recipe, is_warm=start.begins_with is not None, tags=tags),
    )


def _open(teacher: Release) -> list[str]:
    run = Run.objects.filter(teacher=teacher, status__in=Run.OPEN).first()
    if run is None:
        return []
    return [f"The run {run.name} is {run.status} ({run.percent:.0f} %): wait for it, or cancel it."]
