"""Decisions of a person about a run's release: serve, canary, measure again, continue training, discard."""

from typing import Any
from urllib.parse import urlencode

import structlog
from django.db.models import Exists, OuterRef, QuerySet
from django.template.defaultfilters import pluralize
from django.urls import reverse

from distillation.design.descriptions import merged
from distillation.errors import DistillationRefused
from distillation.evaluation.gate_limits import MAX_SEEDS
from distillation.models import Run
from distillation.pipeline.summaries import FITS
from distillation.reports import explanation
from distillation.runs import lifecycle as runs
from distillation.runs import policy
from generation.models import Release
from generation.releases import activation, coverage
from generation.releases import lifecycle as releases

log = structlog.get_logger(__name__)

MAX_STEPS = 1_000_000
Outcome = Run.Outcome


def waiting() -> QuerySet[Run]:
    """Return the runs whose release waits for a person, oldest first, without those whose training was continued."""
    trained_on = Run.objects.filter(
        begins_with=OuterRef("release"), status__in=(*Run.OPEN, Run.Status.SUCCEEDED)
    )
    return (
        Run.objects.filter(
            ~Exists(trained_on),
            outcome=Outcome.CANDIDATE,
            release__status=Release.Status.CANDIDATE,
            release__canary_percent=0,
        )
        .select_related("release", "replaces", "teacher")
        .order_by("finished_at", "pk")
    )


def can_decide(run: Run) -> bool:
    """Return whether a person can serve the run's release, begin its canary or discard it."""
    release = run.release
    return (
        release is not None
        and release.status == Release.Status.CANDIDATE
        and not release.canary_percent
    )


def new_prompts(run: Run) -> int:
    """Return the number of active prompt variants that the run's release covers and the one it may replace does not."""
    if run.release is None or run.replaces is None:
        return 0
    return coverage.beyond(run.replaces).filter(coverage.condition(run.release)).count()


def new_prompts_title(count: int) -> str:
    """Return the text of a link to the comparison of this number of new prompts with the teacher."""
    return (
        f"The {count} new prompts beside the teacher"
        if count > 1
        else "The new prompt beside the teacher"
    )


def compare_url(run: Run, *, blind: bool = False, new: bool = False) -> str:
    """Return the path of the admin's page that compares its release with the active one it may replace, else with the
    teacher; "" if it made no release.

    new: the path of the comparison with the teacher for the prompts of `new_prompts`; "" if there is no active one.
    """
    if run.release is None or (new and run.replaces is None):
        return ""
    before = run.replaces or run.teacher
    names = {"first": before.name, "second": run.release.name}
    if new:
        names |= {"first": run.teacher.name, "new": before.name}
    page = "admin:generation_release_blind" if blind else "admin:generation_release_compare"
    return f"{reverse(page)}?{urlencode(names)}"


def can_train_on(run: Run) -> bool:
    """Return whether another run can continue the training of the run's release."""
    fit = FITS.get(run.recipe.get("recipe", ""))
    return (
        run.status == Run.Status.SUCCEEDED
        and run.release is not None
        and not run.release.canary_percent
        and ("again" in run.recipe or (fit is not None and fit.again_steps is not None))
    )


def steps_of(run: Run) -> int:
    """Return the number of steps in the recipe of the joint training that would continue the run's release."""
    again = run.recipe.get("again")
    if isinstance(again, dict) and isinstance(again.get("steps"), int):
        return int(again["steps"])
    fit = FITS.get(run.recipe.get("recipe", ""))
    return (fit.again_steps if fit else None) or 1500


def serve(run: Run, *, reason: str) -> Release:
    """Activate the run's release, that of a run with tags as a specialist.

    A reason is required unless it passed the gate; it is kept in the audit log.

    Raises DistillationRefused and ReleaseRefused.
    """
    release = _release(run)
    if not reason and not (run.gate and run.gate["passed"]):
        raise DistillationRefused(
            f"{release.name} did not pass the gate. Give a reason to serve it anyway."
        )
    activate = activation.activate_specialist if run.tags else activation.activate
    served = activate(release, reason=reason)
    said = f"A person served it: {reason}" if reason else "A person served it."
    _note(run, Outcome.PROMOTED, said)
    return served


def begin_canary(run: Run, *, percent: int) -> Release:
    """Serve a share of the jobs with the run's release. Raises DistillationRefused and ReleaseRefused."""
    if run.tags:
        raise DistillationRefused(f"{run.name} makes a specialist, which has no canary. Serve it.")
    release = activation.begin_canary(_release(run), percent)
    _note(run, Outcome.CANARY, f"A person began its canary with {percent} % of the jobs.")
    return release


def discard(run: Run, *, reason: str = "") -> Release:
    """Reject the run's release for good. Raises DistillationRefused."""
    release = releases.reject(_release(run), reason=reason)
    said = f"A person discarded it: {reason}" if reason else "A person discarded it."
    _note(run, Outcome.REJECTED, said)
    return release


def can_measure_again(run: Run) -> bool:
    """Return whether another run can measure the same training with more seeds, and whether that may decide a check."""
    return (
        can_decide(run)
        and run.status == Run.Status.SUCCEEDED
        and run.gate is not None
        and explanation.explain(run.gate).seeds is not None
    )


def measure_again(run: Run, *, seeds: int, by: Any) -> Run:
    """Start a run with this one's recipe and more fresh seeds. by: the person's account.

    It reuses the stages that are still on disk if the catalogue has not changed; otherwise it trains again. The first
    release is not changed. Raises DistillationRefused, GateForbidden and RunOpen.
    """
    if not can_measure_again(run):
        raise DistillationRefused(
            f"More seeds cannot decide about {run.name}: it was decided already, or no open check needs more seeds."
        )
    if not 1 <= seeds <= MAX_SEEDS:
        raise DistillationRefused(f"Give from 1 to {MAX_SEEDS} seeds, not {seeds}.")
    started = _follow(
        run,
        {"evaluation": {"fresh_seeds": seeds}},
        begins_with=run.begins_with,
        reason=f"{run.name} is measured again with {seeds} seed{pluralize(seeds)} of each variant.",
        by=by,
    )
    log.info("run_remeasured", run=run.name, by=started.name, seeds=seeds)
    return started


def train_on(run: Run, *, steps: int, by: Any) -> Run:
    """Start a run that continues the training of this run's release. by: the person's account.

    Raises DistillationRefused, GateForbidden and RunOpen.
    """
    if not can_train_on(run) or run.release is None:
        raise DistillationRefused(
            f"Training of {run.name} cannot be continued: it made no release, its canary has not ended, or its recipe "
            "has no joint training (again)."
        )
    if not 1 <= steps <= MAX_STEPS:
        raise DistillationRefused(f"Give from 1 to {MAX_STEPS} steps, not {steps}.")
    started = _follow(
        run,
        {"again": {"steps": steps}},
        begins_with=run.release,
        reason=f"Training of {run.name} is continued by {steps} step{pluralize(steps)}.",
        by=by,
    )
    log.info("run_continued", run=run.name, by=started.name, steps=steps)
    return started


def _follow(
    run: Run, changes: dict[str, Any], *, begins_with: Release | None, reason: str, by: Any
) -> Run:
    """Start a run like this one with changes of its recipe. by: the person's account."""
    recipe = merged(run.recipe, changes)
    policy.check_gate(recipe, by)
    return runs.create(
        name=policy.new_name(),
        recipe=recipe,
        teacher=run.teacher,
        begins_with=begins_with,
        reasons=[reason],
        policy=policy.allowed(run.policy),
        tags=run.tags,
        created_by=by,
    )


def _release(run: Run) -> Release:
    """Return the release to decide on. Raises DistillationRefused if it was decided already."""
    if not can_decide(run) or run.release is None:
        state = run.release.status if run.release else "missing"
        raise DistillationRefused(
            f"The release of {run.name} is {state}: there is nothing to decide. Use the page of the release."
        )
    return run.release


def _note(run: Run, outcome: Run.Outcome, reason: str) -> None:
    Run.objects.filter(pk=run.pk).update(outcome=outcome, outcome_reason=reason[:300])
    log.info("run_decided", run=run.name, outcome=str(outcome), reason=reason)
