"""Pages that compare two releases: a slider over the pictures of each prompt, and a blind test."""

from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.defaultfilters import pluralize
from django.template.response import TemplateResponse
from django.urls import reverse

from distillation.release_comparison import blind, pictures, side_by_side
from distillation.release_comparison.blind import Trial
from distillation.release_comparison.side_by_side import Pair
from generation.admin.pictures import unreadable
from generation.errors import GenerationError, StorageFailed
from generation.models import Release
from generation.releases import lifecycle as releases

ON_A_PAGE = 24
SIDES = ("first", "second")
MAKES = "generation.add_job"


class ComparisonMixin:
    """For the ModelAdmin of releases."""

    admin_site: Any
    opts: Any
    page: Any

    def get_urls(self) -> list:
        picture = "compare/<int:release_id>/<slug:embedding>/<int:seed>/"
        own = [
            self.page("compare/", self.compare_view, "generation_release_compare"),
            self.page("compare/blind/", self.blind_view, "generation_release_blind"),
            self.page(picture, self.compared_view, "generation_release_compared", cacheable=True),
        ]
        return [*own, *super().get_urls()]  # type: ignore[misc]

    def compare_view(self, request: HttpRequest) -> HttpResponse:
        """Compare the releases ?first=NAME&second=NAME; a POST submits jobs for the missing pictures.

        &new=NAME: only the prompts that this release does not cover.
        """
        first, second = _chosen(request)
        new = _not_covered_by(request)
        context = self.admin_site.each_context(request) | {
            "title": "Two releases side by side",
            "opts": self.opts,
            "first": first,
            "second": second,
            "releases": Release.objects.order_by("kind", "-registered_at"),
        }
        if first is None or second is None or first == second:
            return TemplateResponse(request, "distillation/admin/compare.html", context)
        if request.method == "POST":
            return self._make(request, first, second, new)
        fits = first.encoder_fingerprint == second.encoder_fingerprint
        found = side_by_side.pairs(first, second, not_covered_by=new) if fits else []
        page = Paginator(found, ON_A_PAGE).get_page(request.GET.get("page"))
        context |= {
            "fits": fits,
            "may_make": fits and request.user.has_perm(MAKES),
            "pairs": page,
            "rows": [(pair, _words(pair), *_links(first, second, pair)) for pair in page],
            "new": new,
            "all_url": _query(first, second),
            "blind_url": reverse("admin:generation_release_blind") + _query(first, second, new),
            "previous": _query(first, second, new, page=page.previous_page_number()) if page.has_previous() else "",
            "following": _query(first, second, new, page=page.next_page_number()) if page.has_next() else "",
        }  # fmt: skip
        return TemplateResponse(request, "distillation/admin/compare.html", context)

    def blind_view(self, request: HttpRequest) -> HttpResponse:
        """Show pairs of ?first=NAME&second=NAME in hidden order; with answers, show which release they prefer.

        &new=NAME: see `compare_view`.
        """
        first, second = _chosen(request)
        new = _not_covered_by(request)
        context = self.admin_site.each_context(request) | {
            "title": "Two releases, compared blindly",
            "opts": self.opts,
            "first": first,
            "second": second,
        }
        if first is not None and second is not None and first != second:
            fits = first.encoder_fingerprint == second.encoder_fingerprint
            trials = blind.trials(first, second, not_covered_by=new) if fits else []
            query = _query(first, second, new)
            is_answered = "answered" in request.GET
            context |= {
                "fits": fits,
                "new": new,
                "rows": [_hidden(first, second, trial) for trial in trials],
                "tally": blind.tally(trials, request.GET.dict()) if is_answered else None,
                "open_url": reverse("admin:generation_release_compare") + query,
                "again_url": query,
            }
        return TemplateResponse(request, "distillation/admin/blind.html", context)

    def _make(
        self, request: HttpRequest, first: Release, second: Release, new: Release | None
    ) -> HttpResponse:
        if not request.user.has_perm(MAKES):
            raise PermissionDenied
        try:
            count = pictures.make(first, second, by=request.user, not_covered_by=new)
        except GenerationError as error:
            messages.error(request, error.detail)
        else:
            messages.success(
                request,
                f"{count} job{pluralize(count, ' makes,s make')} the pictures. Reload the page in a moment.",
            )
        query = _query(first, second, new, page=1)
        return redirect(reverse("admin:generation_release_compare") + query)

    def compared_view(
        self, request: HttpRequest, release_id: int, embedding: str, seed: int
    ) -> HttpResponse:
        """Serve a picture of a pair."""
        release = get_object_or_404(Release, pk=release_id)
        picture = pictures.find(release, embedding, seed)
        if picture is None:
            raise Http404
        try:
            content = picture.read()
        except StorageFailed as error:
            return unreadable(request, error)
        headers = {"Cache-Control": "private, max-age=3600"}
        return HttpResponse(content, content_type="image/png", headers=headers)


def _chosen(request: HttpRequest) -> tuple[Release | None, Release | None]:
    """Return the two releases that the query names; by default the active student and the newest other one."""
    first, second = (
        Release.objects.filter(name=request.GET.get(side, "")).first() for side in SIDES
    )
    if "first" in request.GET or "second" in request.GET:
        return first, second
    active = releases.active(Release.Kind.STUDENT)
    others = Release.objects.filter(kind=Release.Kind.STUDENT).exclude(status=Release.Status.ACTIVE)
    return active, others.order_by("-registered_at").first()


def _not_covered_by(request: HttpRequest) -> Release | None:
    """Return the release whose uncovered prompts the query selects; None for all prompts. Raises Http404."""
    name = request.GET.get("new")
    return get_object_or_404(Release, name=name) if name else None


def _query(first: Release, second: Release, new: Release | None = None, **more: int) -> str:
    names = {"first": first.name, "second": second.name} | ({"new": new.name} if new else {})
    return f"?{urlencode(names | more)}"


def _hidden(first: Release, second: Release, trial: Trial) -> dict[str, Any]:
    """Return a pair with the URLs of its pictures, left and right in the trial's random order."""
    links = _links(first, second, trial.pair)
    left, right = reversed(links) if trial.is_swapped else links
    return {"pair": trial.pair, "left": left, "right": right}


def _links(first: Release, second: Release, pair: Pair) -> list[str]:
    return [
        reverse("admin:generation_release_compared", args=[release.pk, pair.embedding, pair.seed])
        for release in (first, second)
    ]


def _words(pair: Pair) -> str:
    """Return as text how much the prompt's pictures differ between the releases."""
    if pair.change is not None:
        first, second = pair.shares
        return f"right: {first:.0%} → {second:.0%}"
    if pair.distance is not None:
        return f"distance {pair.distance:.3f}"
    return "not measured"
