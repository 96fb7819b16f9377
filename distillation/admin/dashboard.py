"""Additions of distillation to the admin's start page."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from django.http import HttpRequest
from django.urls import reverse

from distillation.admin import next_run
from distillation.models import Example, Run
from distillation.runs import approval
from generation.admin import attention, dashboard
from generation.admin.attention import Item, Level, count, page


def summary(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Return the context of the start page: unfold's DASHBOARD_CALLBACK."""
    context = dashboard.summary(request, context)
    found = [*(_with_offer(request, item) for item in context["attention"]), *_items(request)]
    context["attention"] = sorted(found, key=lambda item: item.level)
    context["is_staffed"] = bool(found or context["cards"])
    if request.user.has_perm("distillation.view_run"):
        context["cards"] += _run()
    return context


def _with_offer(request: HttpRequest, item: Item) -> Item:
    """Return the item; that of prompts without a student says how to start a run now."""
    if item.url != page("promptvariant", attention.NOT_COVERED):
        return item
    return replace(item, advice=next_run.offer(request, next_run.Runs()) or item.advice)


def _items(request: HttpRequest) -> Iterator[Item]:
    may = request.user.has_perm
    if may("distillation.view_run"):
        for run in approval.waiting():
            advice = "Look at its pictures, and decide."
            yield Item(
                Level.DECISION, f"The release of {run.name} waits for you", advice, _page(run)
            )
        for run in Run.objects.filter(status=Run.Status.PAUSED).exclude(error_code=""):
            advice = run.error_detail or "Resume it when the reason is gone."
            yield Item(Level.WARNING, f"The run {run.name} is paused", advice, _page(run))
        failed = Run.objects.order_by("-created_at").first()
        if failed is not None and failed.status == Run.Status.FAILED:
            advice = failed.error_detail or "Its page says why."
            yield Item(Level.WARNING, f"The latest run {failed.name} failed", advice, _page(failed))
    if may("distillation.view_example"):
        yield from _examples()


def _examples() -> Iterator[Item]:
    """Yield an item if some examples have neither a verdict nor a person's decision."""
    open_ones = Example.objects.filter(verdicts=None, refusal="", override=Example.Override.NONE)
    if number := open_ones.count():
        text = f"{count(number, 'example')} not judged"
        advice = "Accept or reject them, or wait for the detector."
        where = page("example", "?verdict=none", app="distillation")
        yield Item(Level.DECISION, text, advice, where)


def _run() -> list[dict[str, Any]]:
    run = Run.objects.filter(status__in=Run.OPEN).order_by("created_at").first()
    if run is None:
        return []
    note = f"{run.name}, {run.stage or run.get_status_display()}"
    return [
        {
            "title": "Run",
            "value": f"{run.percent:.0f} %",
            "note": note,
            "url": _page(run),
            "is_bad": False,
        }
    ]


def _page(run: Run) -> str:
    return reverse("admin:distillation_run_change", args=[run.pk])
