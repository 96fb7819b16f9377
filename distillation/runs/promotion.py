"""Promotion of a run's release: registration, then activation, canary, candidate or rejection by policy and gate."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from django.conf import settings
from django.db import transaction

from distillation.models import Run
from distillation.pipeline.acceptance import GATE, GATE_FILE, RELEASE
from distillation.reports import evaluations, explanation, prompt_changes, prompt_quality
from distillation.runs import lifecycle as runs
from distillation.runs import policy
from distillation.runs.lifecycle import Hold
from generation.models import PromptVariant, Release
from generation.releases import activation, coverage, specialists
from generation.releases import lifecycle as releases

log = structlog.get_logger(__name__)

Outcome, Status = Run.Outcome, Release.Status
MAX_FOUND = 230  # characters of a reason, of which 300 are stored


@dataclass(frozen=True)
class Verdict:
    outcome: Run.Outcome
    reason: str


def conclude(run: Run, hold: Hold, made: Mapping[str, Path]) -> None:
    """Register the release, apply the run's policy, and finish the run, in one transaction.

    made: the folders of the run's stages. Idempotent: a slice that is lost in between is repeated. Raises
    ReleaseRefused.
    """
    gate = json.loads((made[GATE] / GATE_FILE).read_text("utf-8"))
    release = Release.objects.filter(name=run.name).first()
    if release is None:
        release = releases.register(made[RELEASE] / RELEASE)
    prompt_quality.record(made)
    gate["prompts"] = prompt_changes.of(release, is_specialist=bool(run.tags))
    evaluations.add_prompts(run.name, gate["prompts"])
    kind = release.kind
    verdict = decide(run, release, list(Release.objects.filter(kind=kind)), gate=gate)
    if (
        verdict.outcome in (Outcome.PROMOTED, Outcome.CANARY)
        and release.status not in Release.SERVED
    ):
        activation.make_ready(release)
    with transaction.atomic():
        # A person decides either before this transaction, and then the decision stands, or after it.
        rows = releases.locked(kind)
        release = next((row for row in rows if row.pk == release.pk), release)
        verdict = decide(run, release, rows, gate=gate)
        _apply(verdict, release, run)
        if not runs.finish(
            hold,
            release=release,
            gate=gate,
            outcome=verdict.outcome,
            outcome_reason=verdict.reason[:300],
        ):
            # The hold is not valid any more: another worker will conclude the run.
            transaction.set_rollback(True)
            return
    failed = [check["name"] for check in gate["checks"] if not check["passed"]]
    log.info(
        "run_concluded",
        run=run.name,
        outcome=str(verdict.outcome),
        reason=verdict.reason,
        failed=failed,
    )


def _apply(verdict: Verdict, release: Release, run: Run) -> None:
    """Move the release, unless a person has done so."""
    if verdict.outcome == Outcome.REJECTED and release.status != Status.REJECTED:
        releases.reject(release, reason=verdict.reason)
    elif verdict.outcome == Outcome.PROMOTED and release.status not in Release.SERVED:
        activate = specialists.activate if run.tags else releases.activate
        activate(release, reason=verdict.reason)
    elif verdict.outcome == Outcome.CANARY and not release.canary_percent:
        releases.begin_canary(release, settings.CANARY_PERCENT)


def decide(
    run: Run, release: Release, rows: Sequence[Release], *, gate: Mapping[str, Any]
) -> Verdict:
    """Return the outcome. rows: all releases of the kind as they are now; gate: passed, checks, prompts.

    A person's decision during the run takes precedence: about this release, the active one, or a canary. With the
    policy manual a person always decides; with any policy if the gate could not decide.
    """
    decided = _decided(release)
    if decided is not None:
        return decided
    ceiling = policy.allowed(run.policy)
    is_undecided = explanation.is_undecided(gate)
    passed = (
        "It passed the gate"
        if gate["passed"]
        else _cut(explanation.explain(gate).found)
        if is_undecided
        else "It did not pass the gate"
    )
    if policy.is_rehearsal(run.recipe):
        return Verdict(Outcome.CANDIDATE, f"{passed}; only a person can activate a rehearsal.")
    if ceiling == Run.Policy.MANUAL:
        why = "the run" if run.policy == ceiling else "the setting PROMOTION"
        return Verdict(Outcome.CANDIDATE, f"{passed}; the policy of {why} is manual.")
    if is_undecided:
        return Verdict(Outcome.CANDIDATE, f"{passed}; a person decides.")
    if not gate["passed"]:
        return Verdict(Outcome.REJECTED, f"{passed}.")
    if run.tags:
        return _of_specialist(run, rows, ceiling, gate)
    active = next((row for row in rows if row.status == Status.ACTIVE), None)
    if (active and active.pk) != run.replaces_id:
        return Verdict(
            Outcome.CANDIDATE,
            f"It passed the gate, which compared it with {run.replaces or 'no release'}; now "
            f"{active or 'no release'} is active.",
        )
    tried = next((row for row in rows if row.canary_percent), None)
    if tried is not None:
        return Verdict(
            Outcome.CANDIDATE,
            f"It passed the gate; {tried.name} is a canary that has not been decided.",
        )
    if active is not None and (narrower := _narrower(release, active)):
        return Verdict(Outcome.CANDIDATE, narrower)
    # Without an active release to compare with, a canary is activated at once.
    if ceiling == Run.Policy.CANARY and active is not None:
        return Verdict(Outcome.CANARY, "It passed the gate.")
    return Verdict(Outcome.PROMOTED, "It passed the gate.")


def _narrower(release: Release, active: Release) -> str | None:
    """Return a reason against replacing the active release by one that covers fewer prompts; None if it does not.

    The gate compares only the prompts that both cover.
    """
    variants = PromptVariant.objects.filter(status=PromptVariant.Status.ACTIVE)
    ours, theirs = (variants.filter(coverage.condition(row)).count() for row in (release, active))
    if ours >= theirs:
        return None
    return (
        f"It passed the gate, but it covers {ours} of the active prompt variants, and {active} {theirs}; a person "
        "decides."
    )


def _of_specialist(
    run: Run, rows: Sequence[Release], ceiling: Run.Policy, gate: Mapping[str, Any]
) -> Verdict:
    """Return the outcome of a specialist that passed the gate."""
    if not gate["prompts"]["changed"]:
        return Verdict(
            Outcome.CANDIDATE,
            "It passed the gate, but it is not known to be better for any prompt, so it would serve none.",
        )
    served = {row.pk for row in rows if row.status in Release.SERVED}
    if run.replaces_id is not None and run.replaces_id not in served:
        return Verdict(
            Outcome.CANDIDATE,
            f"It passed the gate, which compared it with {run.replaces}; that is not served any more.",
        )
    if ceiling == Run.Policy.CANARY:
        return Verdict(
            Outcome.CANDIDATE, "It passed the gate; a specialist has no canary, a person decides."
        )
    return Verdict(
        Outcome.PROMOTED, "It passed the gate and serves the prompts that it makes better."
    )


def _cut(found: str) -> str:
    """Return what the gate found without its full stop, short enough for the rest of a reason."""
    return found.rstrip(".") if len(found) <= MAX_FOUND else f"{found[:MAX_FOUND]}…"


def _decided(release: Release) -> Verdict | None:
    """Return the outcome of a person's decision on the release before its run ended; None if there was none."""
    if release.status in Release.SERVED:
        return Verdict(Outcome.PROMOTED, "A person activated it.")
    if release.status == Status.REJECTED:
        return Verdict(Outcome.REJECTED, "A person rejected it.")
    if release.canary_percent:
        return Verdict(Outcome.CANARY, "A person began its canary.")
    if release.status == Status.RETIRED or release.canary_started_at is not None:
        return Verdict(
            Outcome.CANDIDATE, "A person put it into service, and later took it out of service."
        )
    return None
