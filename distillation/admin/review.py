"""Review of examples one at a time: keys or buttons accept, reject and go on; the last decision can be undone."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from django.core.exceptions import BadRequest, PermissionDenied
from django.db.models import Exists, OuterRef, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from unfold.decorators import action

from distillation.examples import lifecycle as examples
from distillation.examples.lifecycle import Override
from distillation.models import Example, Verdict
from generation.admin import pictures

SETS: Mapping[str, str] = {
    "undecided": "without a person's decision",
    "rejected": "rejected by the detector",
    "accepted": "accepted by the detector",
}
DECISIONS: Mapping[str, Override] = {
    "accept": Override.ACCEPTED,
    "reject": Override.REJECTED,
    "clear": Override.NONE,
}
NAMES = {decision: name for name, decision in DECISIONS.items()}


class ReviewMixin:
    """For the ModelAdmin of examples."""

    admin_site: Any
    opts: Any

    @action(
        description="Review one by one", url_path="review", icon="rate_review", permissions=["view"]
    )
    def review(self, request: HttpRequest) -> HttpResponse:
        """Show an example of ?of=SET, the one at ?at=ID or the first; a POST decides on it and shows the next."""
        if request.method == "POST":
            return self._decided(request)
        of = request.GET.get("of", "")
        of = of if of in SETS else "undecided"
        rows = _set(of)
        at = _id(request.GET.get("at"))
        shown = _shown(at) or rows.filter(pk__gt=at or 0).first() or rows.first()
        undo = _shown(_id(request.GET.get("undo")))
        was = request.GET.get("was", "")
        context = self.admin_site.each_context(request) | {
            "title": "Review of examples",
            "opts": self.opts,
            "of": of,
            "sets": [(name, words, _link(name)) for name, words in SETS.items()],
            "left": rows.count(),
            "example": shown,
            "may_decide": self.has_change_permission(request),  # type: ignore[attr-defined]
            "undo": undo if was in NAMES else None,
            "undo_name": NAMES.get(Override(was)) if was in NAMES else "",
            "examples": reverse("admin:distillation_example_changelist"),
        }
        if shown is not None:
            context |= _facts(shown, rows, of)
        return TemplateResponse(request, "distillation/admin/review.html", context)

    def _decided(self, request: HttpRequest) -> HttpResponse:
        if not self.has_change_permission(request):  # type: ignore[attr-defined]
            raise PermissionDenied
        name, of = request.POST.get("decision", ""), request.POST.get("of", "")
        if name not in DECISIONS or of not in SETS:
            raise BadRequest("Give a decision and a set.")
        example = get_object_or_404(Example, pk=_id(request.POST.get("example")) or 0, refusal="")
        was = example.override
        self.change_override(request, Example.objects.filter(pk=example.pk), name)  # type: ignore[attr-defined]
        if "undoes" in request.POST:
            return redirect(f"{request.path}{_link(of, at=example.pk)}")
        following = _set(of).filter(pk__gt=example.pk).first() or _set(of).first()
        at = {"at": following.pk} if following else {}
        return redirect(f"{request.path}{_link(of, **at, undo=example.pk, was=was)}")


def _set(of: str) -> QuerySet[Example]:
    """Return the examples of a set that have a picture, in the order in which they are shown."""
    rows = Example.objects.filter(refusal="", override=Override.NONE).exclude(file="")
    if of != "undecided":
        verdicts = Verdict.objects.filter(
            example=OuterRef("pk"),
            detector=examples.active_detector(),
            is_accepted=of == "accepted",
        )
        rows = rows.filter(Exists(verdicts))
    return rows.order_by("pk")


def _facts(shown: Example, rows: QuerySet[Example], of: str) -> dict[str, Any]:
    """Return what the page shows of an example, and the links to its neighbours."""
    verdict = shown.verdicts.filter(detector=examples.active_detector()).first()
    before, after = rows.filter(pk__lt=shown.pk).last(), rows.filter(pk__gt=shown.pk).first()
    return {
        "picture": _picture(shown),
        "variants": shown.source.variants.all(),
        "verdict": verdict,
        "state": pictures.badge(
            shown.override
            or ("not judged" if verdict is None else "accepted" if verdict.is_accepted else "rejected")
        ),
        "previous": _link(of, at=before.pk) if before else "",
        "following": _link(of, at=after.pk) if after else "",
        "following_picture": _picture(after) if after else "",
    }  # fmt: skip


def _picture(example: Example) -> str:
    return reverse("admin:distillation_example_picture", args=[example.pk, "full"])


def _shown(pk: int | None) -> Example | None:
    return None if pk is None else Example.objects.filter(pk=pk, refusal="").first()


def _id(given: str | None) -> int | None:
    is_number = given is not None and given.isascii() and given.isdecimal() and len(given) < 18
    return int(given) if is_number and given is not None else None


def _link(of: str, **fields: object) -> str:
    return f"?{urlencode({'of': of, **fields})}"
