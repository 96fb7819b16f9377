"""Parameters of a new design, parsed and checked. Imports no torch."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from distillation.design import limits as limiting
from distillation.design.descriptions import merged
from distillation.design.limits import BEST, MAX_HOURS, Limits
from distillation.designs import devices
from distillation.errors import DistillationRefused
from distillation.runs import fits, policy, recipe_descriptions
from generation.catalogue import variants as prompts
from generation.models import Release
from generation.releases import coverage
from generation.releases import lifecycle as releases

Kind = Release.Kind


@dataclass(frozen=True, kw_only=True)
class Brief:
    """Checked parameters of a new design. judges: names of the judges' folders; hours: of work."""

    recipe: Mapping[str, Any]
    teacher: Release
    limits: Limits
    device: str
    wish: str
    hours: float
    student: Release | None = None
    tags: Sequence[str] = ()
    most_candidates: int = 0
    judges: Sequence[str] = ()

    @property
    def key(self) -> str:
        """Return a hash that identifies the search. hours is not part of it: a search may be continued with more."""
        values = [
            dict(self.recipe), self.teacher.name, self.limits.as_json(), self.device, self.wish, sorted(self.tags),
            list(self.judges), self.most_candidates,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def of(
    *,
    size: str = "",
    time: str = "",
    memory: str = "",
    quality: str = "",
    wish: str = BEST,
    hours: float,
    recipe: Mapping[str, Any] | None = None,
    changes: Mapping[str, Any] | None = None,
    teacher: str = "",
    student: str = "",
    tags: Sequence[str] = (),
    most_candidates: int = 0,
    judges: Sequence[str] = (),
    is_for_workers: bool = False,
    person: Any = None,
) -> Brief:
    """Return the brief.

    recipe: a description, None = the server's; changes: merged into it; teacher, student: names of releases, "" = the
    active ones; is_for_workers: whether a live worker must have the device; person: whose permission to change the
    gate is checked, None = no check.

    Raises LimitRefused, DistillationRefused, GateForbidden and ReleaseNotAvailable.
    """
    limits, device = limiting.parse(size=size, time=time, memory=memory, quality=quality)
    if is_for_workers:
        devices.check_reported(device)
    if not 0 < hours <= MAX_HOURS:
        raise limiting.LimitRefused("hours", f"above 0 and up to {MAX_HOURS:g}, not {hours:g}.")
    description = (
        recipe_descriptions.described(settings.DISTILLATION_RECIPE)
        if recipe is None
        else recipe_descriptions.check_description(dict(recipe), "The recipe")
    )
    description = merged(description, changes or {})
    policy.check_gate(description, person)
    of_teacher = policy.named(teacher, Kind.TEACHER)
    policy.check_variants(tags)
    if unfit := fits.unfit_teacher(description, of_teacher):
        raise DistillationRefused(unfit)
    compared = policy.named(student, Kind.STUDENT) if student else comparable(of_teacher, tags)
    return Brief(
        recipe=description,
        teacher=of_teacher,
        limits=limits,
        device=device,
        wish=wish,
        hours=hours,
        student=compared,
        tags=tags,
        most_candidates=most_candidates,
        judges=judges,
    )


def comparable(teacher: Release, tags: Sequence[str]) -> Release | None:
    """Return the active student if it has this teacher's encoder and size, and covers the variants with these tags."""
    active = releases.active(Release.Kind.STUDENT)
    if active is None or active.encoder_fingerprint != teacher.encoder_fingerprint:
        return None
    if active.image_sizes[0] != teacher.image_sizes[0]:
        return None
    variants = prompts.tagged(prompts.usable(teacher.encoder_fingerprint), tags)
    is_covered = not variants.exclude(coverage.condition(active)).exists()
    return active if is_covered else None
