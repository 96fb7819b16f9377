"""Redistillation policy: collects facts from the database, decides on them, and starts a run if needed.

The decision is a pure function. Loads no torch: it is called by the schedule and by web requests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import structlog
from django.conf import settings
from django.db.models import Count, Max, Q, QuerySet
from django.template.defaultfilters import pluralize
from django.utils import timezone

from distillation.errors import DistillationRefused, GateForbidden, RunOpen
from distillation.models import Decision, Run
from distillation.pipeline.summaries import REHEARSALS
from distillation.runs import fits, recipe_descriptions
from distillation.runs import lifecycle as runs
from generation.catalogue import variants as catalogue
from generation.engine.proportions import Share
from generation.errors import InvalidRequest
from generation.infra import database
from generation.models import Image, PromptVariant, Release
from generation.releases import lifecycle as releases

log = structlog.get_logger(__name__)

NAMED = 5  # variants listed in a reason
UNSUCCESSFUL = ("failed", "canceled", "rejected", "candidate", "withdrawn")  # status or outcome
GATE_FIELDS = frozenset(
    {"evaluation", "gate"}
)  # of a recipe: how a release is measured, and the limits


@dataclass(frozen=True)
class Facts:
    """uncovered, changed: slugs of active variants that the active student does not cover, or that have a different
    text in it; settled: seconds since the last change of the catalogue; tried: the teacher's latest run, if it had the
    same catalogue and led to no promotion; judged, failing: images of the active student in a window, None unless it
    was active for all of it."""

    teacher: str | None
    active: str | None
    active_teacher: str | None
    variants: int
    uncovered: tuple[str, ...]
    changed: tuple[str, ...]
    unencoded: int
    settled_seconds: float
    age_days: float | None
    open_run: str | None
    tried: str | None
    canary: str | None = None
    judged: int | None = None
    failing: int | None = None


@dataclass(frozen=True)
class Limits:
    """new_variants: number of new or changed variants that start a run; settled_seconds: time without changes of the
    catalogue, so that a run does not start in the middle of editing; age_days: age of the student; 0 = no reason;
    failing_share: of the judged images, exceeded by the lower end of the interval; 0 = no reason."""

    new_variants: int = 1
    settled_seconds: float = 600
    age_days: float = 0
    failing_share: float = 0


def decide(facts: Facts, limits: Limits) -> tuple[bool, list[str]]:
    """Return whether to start a run, and the reasons for or against."""
    if facts.teacher is None:
        return False, ["No teacher is active."]
    if facts.variants == 0:
        return False, ["No prompt variant is active."]
    if facts.open_run is not None:
        return False, [f"The run {facts.open_run} is open."]
    if facts.canary is not None:
        return False, [f"{facts.canary} is a canary that has not been decided."]
    wanted = _wanted(facts, limits)
    if not wanted:
        return False, ["The active student covers the catalogue."]
    if facts.unencoded:
        return False, [*wanted, f"But {unencoded(facts)}"]
    if facts.settled_seconds < limits.settled_seconds:
        return False, [
            *wanted,
            f"But the catalogue changed {facts.settled_seconds:.0f} s ago; a run starts after "
            f"{limits.settled_seconds:.0f} s without changes.",
        ]
    if facts.tried is not None:
        return False, [
            *wanted,
            f"But {facts.tried} had the same catalogue. Start a run manually, with another recipe.",
        ]
    return True, wanted


def unencoded(facts: Facts) -> str:
    """Return a sentence on the prompt variants that are not encoded, at least one."""
    return f"{facts.unencoded} prompt variant{pluralize(facts.unencoded, ' is,s are')} not encoded yet."


def _wanted(facts: Facts, limits: Limits) -> list[str]:
    """Return the reasons to start a run, empty if there are none."""
    if facts.active is None:
        return ["No student is active."]
    found = []
    if facts.active_teacher != facts.teacher:
        found.append(
            f"{facts.active} was made from {facts.active_teacher}; the teacher is {facts.teacher}."
        )
    if len(facts.uncovered) + len(facts.changed) >= max(1, limits.new_variants):
        for slugs, what in (
            (facts.uncovered, " is not covered,s are not covered"),
            (facts.changed, " has a different text,s have a different text"),
        ):
            if slugs:
                more = ", …" if len(slugs) > NAMED else ""
                named = ", ".join(slugs[:NAMED]) + more
                found.append(f"{len(slugs)} prompt variant{pluralize(len(slugs), what)}: {named}.")
    if limits.age_days and facts.age_days is not None and facts.age_days >= limits.age_days:
        found.append(
            f"{facts.active} is {(days := round(facts.age_days))} day{pluralize(days)} old."
        )
    if limits.failing_share and facts.judged and facts.failing is not None:
        share = Share(facts.failing, facts.judged)
        if share.interval[0] > limits.failing_share:
            found.append(
                f"{share.value:.0%} of {share.total} judged images of {facts.active} failed."
            )
    return [reason[:300] for reason in found]


# --- facts ----------------------------------------------------------------------------------------
def gather() -> Facts:
    now = database.now()
    active = {release.kind: release for release in releases.serving()}
    teacher, student = active.get(Release.Kind.TEACHER), active.get(Release.Kind.STUDENT)
    variants = catalogue.usable(teacher.encoder_fingerprint if teacher else "")
    uncovered, changed = _not_covered(student, variants)
    touched = PromptVariant.objects.aggregate(at=Max("updated_at"))["at"]
    open_run = Run.objects.filter(teacher=teacher, status__in=Run.OPEN).first() if teacher else None
    return Facts(
        teacher=teacher.name if teacher else None,
        active=student.name if student else None,
        active_teacher=student.manifest["parent"] if student else None,
        variants=variants.count(),
        uncovered=tuple(uncovered),
        changed=tuple(changed),
        unencoded=catalogue.missing(teacher.encoder_fingerprint).count() if teacher else 0,
        settled_seconds=(now - touched).total_seconds() if touched else 0.0,
        age_days=(now - student.activated_at) / timedelta(days=1)
        if student and student.activated_at
        else None,
        open_run=open_run.name if open_run else None,
        tried=_tried(teacher, touched),
        canary=next((release.name for release in releases.canaries()), None),
        **_findings(student, now),
    )


def _not_covered(
    student: Release | None, variants: QuerySet[PromptVariant]
) -> tuple[list[str], list[str]]:
    """Return the slugs that the student does not cover, and those whose text differs in it."""
    active = dict(variants.values_list("slug", "normalized_text"))
    if student is None:
        return list(active), []
    if student.covers_all:
        return [], []
    known = dict(student.coverage.values_list("slug", "normalized_text"))
    uncovered = [slug for slug in active if slug not in known]
    changed = [slug for slug, text in active.items() if known.get(slug, "") not in ("", text)]
    return uncovered, changed


def _findings(student: Release | None, now: Any) -> dict[str, int]:
    """Count judged and failing images of the last days, if the student was active for all of them."""
    since = now - timedelta(days=settings.REDISTIL_WINDOW_DAYS)
    if student is None or student.activated_at is None or student.activated_at > since:
        return {}
    judged = Image.objects.filter(
        job__release=student, created_at__gte=since, is_accepted__isnull=False
    )
    return judged.aggregate(judged=Count("pk"), failing=Count("pk", filter=Q(is_accepted=False)))


def _tried(teacher: Release | None, touched: Any) -> str | None:
    """Return a description of the teacher's latest run if it led to no promotion; None otherwise.

    Only runs since the last change of the catalogue count. Another run would probably end in the same way.
    """
    if touched is None:
        return None
    ended = Run.objects.filter(teacher=teacher, started_at__gte=touched)
    ended = ended.exclude(status__in=Run.OPEN).filter(tags=[])
    run = ended.exclude(recipe__recipe__in=sorted(REHEARSALS)).order_by("-finished_at").first()
    if run is None or not {run.status, run.outcome}.intersection(UNSUCCESSFUL):
        return None
    return f"{run.name} ({run.status}, {run.outcome})"


# --- promotion ------------------------------------------------------------------------------------
STRICTEST_FIRST = (Run.Policy.MANUAL, Run.Policy.CANARY, Run.Policy.AUTO)


def policies() -> tuple[Run.Policy, ...]:
    """Return the policies that a run may have. The setting PROMOTION is the ceiling of all runs."""
    return STRICTEST_FIRST[: STRICTEST_FIRST.index(Run.Policy(settings.PROMOTION)) + 1]


def is_rehearsal(recipe: Mapping[str, Any]) -> bool:
    """Return whether releases of this description of a recipe are served only by a person's decision."""
    return recipe.get("recipe") in REHEARSALS


def allowed(policy: str) -> Run.Policy:
    """Return the policy, or the ceiling if that is stricter: it may have been lowered during the run."""
    return min(Run.Policy(policy), policies()[-1], key=STRICTEST_FIRST.index)


# --- starting -------------------------------------------------------------------------------------
def consider(*, created_by: Any = None) -> Decision:
    """Decide and start a run if needed; the decision is stored either way. Idempotent.

    created_by: account of the person who wants the decision; None for the schedule.
    """
    facts = gather()
    limits = Limits(
        settings.REDISTIL_NEW_VARIANTS,
        settings.REDISTIL_SETTLED_SECONDS,
        settings.REDISTIL_AGE_DAYS,
        settings.REDISTIL_FAILING_SHARE,
    )
    is_start, reasons = decide(facts, limits)
    run = None
    if is_start:
        try:
            trigger = Run.Trigger.SCHEDULE if created_by is None else Run.Trigger.PERSON
            run = start(trigger=trigger, reasons=reasons, is_warm=None, created_by=created_by)
        except (RunOpen, DistillationRefused) as error:  # a concurrent beat; an unfit recipe
            is_start, reasons = False, [error.detail]
    decision = Decision.objects.create(
        is_start=is_start, reasons=reasons, facts=asdict(facts), run=run
    )
    log.info("redistillation_considered", is_start=is_start, reasons=reasons)
    return decision


@dataclass(frozen=True)
class Start:
    """Checked arguments of a run. begins_with: None derives a student from the teacher. tags: of the prompt variants
    for which it makes a specialist; none: a student for all."""

    recipe: dict[str, Any]
    teacher: Release
    begins_with: Release | None
    policy: Run.Policy
    tags: Sequence[str] = ()


def prepare(
    *,
    recipe: dict[str, Any] | None = None,
    is_warm: bool | None = True,
    policy: str | None = None,
    tags: Sequence[str] = (),
    created_by: Any = None,
) -> Start:
    """Return checked arguments of a run from the active teacher for the active catalogue. Raises DistillationRefused.

    tags: only prompt variants with one of them, for a specialist; none: all. is_warm: continue from the active student
    if it is this teacher's; otherwise derive one from the teacher. None: continue it only if the recipe can.
    created_by: a person's account; only with the permission to change releases may the recipe change the gate. Raises
    InvalidRequest, GateForbidden.
    """
    policy = policy or settings.PROMOTION
    if policy not in policies():
        raise InvalidRequest(
            f"The setting PROMOTION={settings.PROMOTION} does not allow this policy. Give "
            f"{' or '.join(policies())}.",
            parameter="policy",
        )
    check_gate(recipe or {}, created_by)
    teacher = releases.named(Release.Kind.TEACHER)
    student = Release.objects.filter(
        kind=Release.Kind.STUDENT, status=Release.Status.ACTIVE, manifest__parent=teacher.name
    ).first()
    check_variants(tags)
    recipe = (
        recipe_descriptions.described(settings.DISTILLATION_RECIPE)
        if recipe is None
        else recipe_descriptions.check_description(recipe, "The recipe")
    )
    if is_warm is None:
        is_warm = student is None or fits.unfit_student(recipe, student) is None
    begins_with = student if is_warm else None
    return Start(recipe, teacher, begins_with, Run.Policy(policy), tags)


def check_variants(tags: Sequence[str]) -> None:
    """Raise DistillationRefused unless there is an active prompt variant, with one of the tags if any are given."""
    variants = PromptVariant.objects.filter(status=PromptVariant.Status.ACTIVE)
    if not variants.exists():
        raise DistillationRefused(
            "No prompt variant is active. Activate the variants to distil for."
        )
    if tags and not catalogue.tagged(variants, tags).exists():
        raise DistillationRefused(f"No active prompt variant has a tag of {', '.join(tags)}.")


def named(name: str | None, kind: Release.Kind) -> Release:
    """Return the release of this name, or the active one of the kind if the name is empty.

    Raises ReleaseNotAvailable, and DistillationRefused for a release of another kind.
    """
    release = releases.named(name or kind)
    if release.kind != kind:
        raise DistillationRefused(f"{release.name} is a {release.kind}. Give a {kind}.")
    return release


def check_gate(recipe: Mapping[str, Any], person: Any) -> None:
    """Raise GateForbidden if the recipe changes the gate and the person may not.

    person: None for a process, which may.
    """
    gate = sorted(GATE_FIELDS.intersection(recipe))
    if gate and not (person is None or person.has_perm("generation.change_release")):
        raise GateForbidden(
            f"The recipe changes {' and '.join(gate)}. Leave that out, or ask somebody who may change releases."
        )


def start(
    *,
    trigger: Run.Trigger = Run.Trigger.PERSON,
    reasons: tuple[str, ...] | list[str] = (),
    recipe: dict[str, Any] | None = None,
    is_warm: bool | None = True,
    policy: str | None = None,
    tags: Sequence[str] = (),
    created_by: Any = None,
) -> Run:
    """Start a run. Arguments: see `prepare`. Raises its errors, DistillationRefused for an unfit recipe, RunOpen."""
    prepared = prepare(
        recipe=recipe, is_warm=is_warm, policy=policy, tags=tags, created_by=created_by
    )
    if unfit := fits.unfit(prepared.recipe, prepared.teacher, prepared.begins_with):
        raise DistillationRefused(" ".join(unfit))
    return runs.create(
        name=new_name(),
        recipe=prepared.recipe,
        teacher=prepared.teacher,
        begins_with=prepared.begins_with,
        trigger=trigger,
        reasons=reasons,
        policy=prepared.policy,
        tags=prepared.tags,
        created_by=created_by,
    )


def new_name() -> str:
    """Return a name for the release, with the time of the start."""
    stem = f"student-{timezone.now():%Y%m%d-%H%M%S}"
    number, name = 1, stem
    while Run.objects.filter(name=name).exists() or Release.objects.filter(name=name).exists():
        number += 1
        name = f"{stem}-{number}"
    return name
