"""Decisions about a run's release, on the run's page: serve, canary, measure again, continue training, discard."""

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import get_object_or_404, redirect
from django.urls import path, reverse

from distillation.errors import DistillationRefused
from distillation.evaluation.gate_limits import MAX_SEEDS
from distillation.models import Run
from distillation.reports import explanation
from distillation.runs import approval
from generation.admin.actions import Number, whole_number
from generation.errors import GenerationError
from generation.releases import lifecycle as releases
from generation.releases import reassignment

SERVE, CANARY, MEASURE, TRAIN_ON, DISCARD = "serve", "canary", "measure", "train-on", "discard"
PERMISSIONS = {
    SERVE: "generation.change_release",
    CANARY: "generation.change_release",
    MEASURE: "generation.change_release",  # it changes the recipe's evaluation
    TRAIN_ON: "distillation.add_run",
    DISCARD: "generation.change_release",
}
MAX_REASON = 300


class ApprovalsMixin:
    """For the ModelAdmin of runs."""

    admin_site: Any

    def get_urls(self) -> list:
        view = self.admin_site.admin_view(self.decide_view)
        own = path("<int:run_id>/decide/<str:name>/", view, name="distillation_run_decide")
        return [own, *super().get_urls()]  # type: ignore[misc]

    def decide_view(self, request: HttpRequest, run_id: int, name: str) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if name not in PERMISSIONS:
            raise Http404
        if not self.has_view_permission(request) or not _may(request, name):  # type: ignore[attr-defined]
            raise PermissionDenied
        run = get_object_or_404(Run.objects.select_related("release", "teacher"), pk=run_id)
        try:
            shown, said = DECISIONS[name](request, run)
        except GenerationError as error:
            messages.error(request, error.detail)
            return redirect("admin:distillation_run_change", run.pk)
        self.log_change(request, run, said)  # type: ignore[attr-defined]
        messages.success(request, said)
        return redirect("admin:distillation_run_change", shown.pk)


def _may(request: HttpRequest, name: str) -> bool:
    return bool(request.user.has_perm(PERMISSIONS[name]))


def _serve(request: HttpRequest, run: Run) -> tuple[Run, str]:
    release = approval.serve(run, reason=_reason(request))
    return run, f"{release.name} is active."


def _canary(request: HttpRequest, run: Run) -> tuple[Run, str]:
    percent = whole_number(request, "percent")
    release = approval.begin_canary(run, percent=percent)
    return run, f"{release.name} serves {percent} % of the jobs."


def _measure(request: HttpRequest, run: Run) -> tuple[Run, str]:
    started = approval.measure_again(run, seeds=whole_number(request, "seeds"), by=request.user)
    return started, f"{started.name} measures {run.name} again."


def _train_on(request: HttpRequest, run: Run) -> tuple[Run, str]:
    started = approval.train_on(run, steps=whole_number(request, "steps"), by=request.user)
    return started, f"{started.name} continues the training of {run.name}."


def _discard(request: HttpRequest, run: Run) -> tuple[Run, str]:
    release = approval.discard(run, reason=_reason(request))
    return run, f"{release.name} was discarded."


DECISIONS: dict[str, Callable[[HttpRequest, Run], tuple[Run, str]]] = {
    SERVE: _serve,
    CANARY: _canary,
    MEASURE: _measure,
    TRAIN_ON: _train_on,
    DISCARD: _discard,
}


def _reason(request: HttpRequest) -> str:
    reason = " ".join(request.POST.get("reason", "").split())
    if len(reason) > MAX_REASON:
        raise DistillationRefused(f"A reason has at most {MAX_REASON} characters.")
    return reason


# --- on the page ----------------------------------------------------------------------------------
def offered(request: HttpRequest, run: Run) -> list[dict[str, Any]]:
    """Return the decisions that this person can make now, each with the data of its form."""
    passed = bool(run.gate and run.gate["passed"])
    release = run.release
    found: list[dict[str, Any]] = []
    if release is None:
        return found
    if approval.can_decide(run):
        active = None if run.tags else releases.active(release.kind)
        begin = reassignment.beside if run.tags else reassignment.activated
        found.append(
            {
                "name": SERVE,
                "title": "Serve" if passed else "Serve anyway",
                "icon": "play_circle",
                "text": f"New jobs will use {release.name}"
                + (" as a specialist, for prompts that it is known to make better" if run.tags else "")
                + (f" instead of {active.name}, which is retired and can be activated again." if active else ".")
                + reassignment.paragraphs(begin, release),
                "reason": "optional" if passed else "required",
            }
        )  # fmt: skip
        if active is not None:
            found.append(
                {
                    "name": CANARY,
                    "title": "Canary",
                    "icon": "science",
                    "text": f"A share of the jobs uses {release.name}, and its failures are compared with those of "
                    f"{active.name}. It is withdrawn if it is measurably worse.",
                    "number": Number("percent", "Share of the jobs, %", 1, 99, settings.CANARY_PERCENT),
                }
            )  # fmt: skip
    if approval.can_measure_again(run):
        found.append(
            {
                "name": MEASURE,
                "title": "Measure again",
                "icon": "straighten",
                "text": f"A new run with the same recipe evaluates with more fresh seeds. It reuses the training of "
                f"{run.name} if that is still on disk and the catalogue has not changed; otherwise it trains again. "
                f"{release.name} is not changed: discard it when the new release is served.",
                "number": Number(
                    "seeds",
                    "Seeds of each variant",
                    1,
                    MAX_SEEDS,
                    explanation.explain(run.gate or {}).seeds or 1,
                ),
            }
        )  # fmt: skip
    if approval.can_train_on(run):
        found.append(
            {
                "name": TRAIN_ON,
                "title": "Continue training",
                "icon": "model_training",
                "text": f"A new run continues the training of {release.name}, with the present catalogue. Its release "
                "comes back here.",
                "number": Number("steps", "Steps", 1, approval.MAX_STEPS, approval.steps_of(run)),
            }
        )  # fmt: skip
    if approval.can_decide(run):
        found.append(
            {
                "name": DISCARD,
                "title": "Discard",
                "icon": "block",
                "text": f"{release.name} can never be served after this. This cannot be undone.",
                "reason": "optional",
            }
        )
    return [
        row | {"url": reverse("admin:distillation_run_decide", args=[run.pk, row["name"]])}
        for row in found
        if _may(request, row["name"])
    ]
