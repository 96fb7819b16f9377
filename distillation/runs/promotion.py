"""Promotion of a run's release: registration, then activation, canary, candidate or rejection by policy and gate."""

import json
from collections.abc import Mapping
from pathlib import Path

import structlog
from django.conf import settings
from django.db import transaction

from distillation.models import Run
from distillation.pipeline.acceptance import GATE, GATE_FILE, RELEASE
from distillation.runs import lifecycle as runs
from distillation.runs.lifecycle import Hold
from generation.models import Release
from generation.releases import activation
from generation.releases import lifecycle as releases

log = structlog.get_logger(__name__)


def conclude(run: Run, hold: Hold, made: Mapping[str, Path]) -> None:
    """Register the release, apply the run's policy, and finish the run, in one transaction.

    made: the folders of the run's stages. Idempotent: a slice that is lost in between is repeated. Raises
    ReleaseRefused.
    """
    gate = json.loads((made[GATE] / GATE_FILE).read_text("utf-8"))
    release = Release.objects.filter(name=run.name).first()
    if release is None:
        release = releases.register(made[RELEASE] / RELEASE)
    outcome = _outcome(run, release, gate["passed"])
    is_served = outcome in (Run.Outcome.PROMOTED, Run.Outcome.CANARY)
    if is_served and release.status != Release.Status.ACTIVE:
        activation.make_ready(release)
    with transaction.atomic():
        if outcome == Run.Outcome.REJECTED:
            releases.reject(release, reason="It did not pass the gate.")
        elif outcome == Run.Outcome.PROMOTED:
            releases.activate(release, reason="It passed the gate.")
        elif outcome == Run.Outcome.CANARY:
            releases.begin_canary(release, settings.CANARY_PERCENT)
        if not runs.finish(hold, release=release, gate=gate, outcome=outcome):
            # The hold is not valid any more: another worker will conclude the run.
            transaction.set_rollback(True)
            return
    failed = [check["name"] for check in gate["checks"] if not check["passed"]]
    log.info("run_concluded", run=run.name, outcome=str(outcome), failed=failed)


def _outcome(run: Run, release: Release, is_passed: bool) -> Run.Outcome:
    """Return the outcome by the policy. Without an active release to compare with, a canary is activated at once."""
    if not is_passed:
        return Run.Outcome.REJECTED
    if run.policy == Run.Policy.MANUAL:
        return Run.Outcome.CANDIDATE
    active = Release.objects.filter(kind=release.kind, status=Release.Status.ACTIVE)
    if run.policy == Run.Policy.CANARY and active.exclude(pk=release.pk).exists():
        # Another canary was started manually; this release waits for a decision.
        others = Release.objects.filter(kind=release.kind, canary_percent__gt=0)
        return (
            Run.Outcome.CANDIDATE if others.exclude(pk=release.pk).exists() else Run.Outcome.CANARY
        )
    return Run.Outcome.PROMOTED
