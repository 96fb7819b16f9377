"""Working time of runs: measured on earlier runs, and estimated for the rest of an open one.

It is the time of slices, without pauses and waits for a worker.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db.models import DurationField, ExpressionWrapper, F, Sum
from django.db.models.functions import Coalesce, Now

from distillation.models import Run, Slice
from distillation.pipeline.summaries import REFERENCES, Reference

LATEST = 5  # runs of a recipe whose time is averaged
MIN_PERCENT = 2.0  # progress of a run before the rest is estimated by its own pace


@dataclass(frozen=True)
class Measured:
    """Median of the seconds of `runs` earlier runs of a recipe."""

    seconds: float
    runs: int


def worked(run_ids: Iterable[int]) -> dict[int, float]:
    """Return the seconds of the slices of each run, a running one until now."""
    spent = ExpressionWrapper(Coalesce("ended_at", Now()) - F("started_at"), DurationField())
    rows = Slice.objects.filter(run__in=list(run_ids)).order_by()
    sums = rows.values("run").annotate(total=Sum(spent)).values_list("run", "total")
    return {run_id: (total or timedelta()).total_seconds() for run_id, total in sums}


def measured() -> dict[tuple[str, bool], Measured]:
    """Return the time of earlier runs by (recipe, whether they continued a student).

    Recipes with changes and runs of a part of the catalogue are left out.
    """
    whole = Run.objects.filter(status=Run.Status.SUCCEEDED, tags=[])
    rows = whole.order_by("-finished_at")[:200]
    latest: dict[tuple[str, bool], list[int]] = {}
    for run in rows:
        if set(run.recipe) == {"recipe"}:
            of_recipe = latest.setdefault(
                (run.recipe["recipe"], run.begins_with_id is not None), []
            )
            if len(of_recipe) < LATEST:
                of_recipe.append(run.pk)
    seconds = worked(run_id for ids in latest.values() for run_id in ids)
    found = {}
    for key, ids in latest.items():
        times = [seconds[run_id] for run_id in ids if seconds.get(run_id)]
        if times:
            found[key] = Measured(statistics.median(times), len(times))
    return found


def expected(
    recipe: Mapping[str, Any], *, is_warm: bool, tags: Sequence[str] = ()
) -> Measured | None:
    """Return the time of earlier runs of the recipe; None for a recipe with changes or a part of the catalogue."""
    key = _key(recipe, is_warm, tags)
    return measured().get(key) if key else None


def reference(
    recipe: Mapping[str, Any], *, is_warm: bool, tags: Sequence[str] = ()
) -> Reference | None:
    """Return the time of the recipe on another machine; None as for `expected`."""
    key = _key(recipe, is_warm, tags)
    return REFERENCES.get(key) if key else None


def _key(recipe: Mapping[str, Any], is_warm: bool, tags: Sequence[str]) -> tuple[str, bool] | None:
    return (recipe["recipe"], is_warm) if set(recipe) == {"recipe"} and not tags else None


def in_advance(recipe: Mapping[str, Any], *, is_warm: bool) -> str:
    """Return how long a run will take, measured here or on another machine; "" if unknown."""
    if (found := expected(recipe, is_warm=is_warm)) is not None:
        return f"about {in_words(found.seconds)}"
    known = reference(recipe, is_warm=is_warm)
    return "" if known is None else f"{known.minutes} minutes on {known.on}"


def left(run: Run, seconds: float) -> float | None:
    """Return the estimated seconds of work that an open run still needs, None if unknown; first by earlier runs.

    seconds: of work so far.
    """
    if not run.is_open:
        return None
    if run.percent >= MIN_PERCENT:
        return seconds * (100 - run.percent) / run.percent
    earlier = expected(run.recipe, is_warm=run.begins_with_id is not None, tags=run.tags)
    return earlier.seconds - seconds if earlier and earlier.seconds > seconds else None


def in_words(seconds: float) -> str:
    """Return a duration as rounded text: "40 s", "14 minutes", "5.5 hours"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"
