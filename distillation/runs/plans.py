"""Plan of a run before it starts: what would begin, for which prompts, and what stands against it. Loads no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.template.defaultfilters import pluralize

from distillation.models import Run
from distillation.pipeline.summaries import FITS
from distillation.reports import durations
from distillation.reports.durations import Measured
from distillation.runs import policy as redistillation
from distillation.runs.policy import Facts, Start
from generation.catalogue import variants as catalogue
from generation.models import Release

NAMED = 8  # new prompts listed


@dataclass(frozen=True)
class Plan:
    """unfit: why the recipe does not fit the releases; obstacles: what else stops it now; measured: the time of former
    runs like it."""

    start: Start
    facts: Facts
    variants: int
    unfit: tuple[str, ...]
    obstacles: tuple[str, ...]
    measured: Measured | None

    @property
    def sentence(self) -> str:
        """Return what would begin."""
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
                "A person alone serves its release."
                if redistillation.is_rehearsal(start.recipe)
                else f"Policy: {start.policy.label}."
            )
        )

    @property
    def time(self) -> str:
        """Return a sentence on how long it takes."""
        if self.measured is None:
            return "No former run like it tells how long it takes."
        of = "1 former run" if self.measured.runs == 1 else f"{self.measured.runs} former runs"
        return f"About {durations.in_words(self.measured.seconds)} of work, measured in {of}."

    @property
    def named(self) -> str:
        """Return the slugs of new and changed prompts, the first of them."""
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
    """Return what `policy.start` would begin with these arguments, without beginning it. Raises as that does."""
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
    key = (start.recipe["recipe"], start.begins_with is not None)
    has_changes = set(start.recipe) != {"recipe"} or bool(tags)
    most = start.recipe.get("most_variants", FITS[start.recipe["recipe"]].most_variants)
    return Plan(
        start,
        facts,
        min(count, most or count),
        tuple(_unfit(start)),
        tuple(obstacles),
        None if has_changes else durations.measured().get(key),
    )


def _open(teacher: Release) -> list[str]:
    run = Run.objects.filter(teacher=teacher, status__in=Run.OPEN).first()
    if run is None:
        return []
    return [f"The run {run.name} is {run.status} ({run.percent:.0f} %): wait for it, or cancel it."]


def _unfit(start: Start) -> list[str]:
    """Return why the recipe would be refused by the worker, which compares it with the releases; empty if it fits."""
    recipe: Mapping[str, Any] = start.recipe
    fit = FITS[recipe["recipe"]]
    found = []
    size = recipe.get("image_size", fit.image_size)
    width, height = start.teacher.image_sizes[0]
    if (width, height) != (size, size):
        found.append(
            f"The recipe is for teachers of {size} × {size} pixels, and {start.teacher} makes {width} × {height}: "
            "choose another recipe."
        )
    if start.begins_with is None:
        return found
    again = recipe.get("again", fit.again_steps)
    timesteps = list(recipe.get("timesteps", fit.timesteps))
    if again is None:
        found.append(
            "The recipe has no joint training that continues a student: derive a new one from the teacher."
        )
    elif list(start.begins_with.manifest["timesteps"]) != timesteps:
        found.append(
            f"The recipe makes a student of {len(timesteps)} passes at {timesteps}, and {start.begins_with} has "
            f"{list(start.begins_with.manifest['timesteps'])}: derive a new student from the teacher."
        )
    return found
