"""Pages that explain error codes to people; `type` of a problem document has their URL."""

from http import HTTPStatus
from typing import Any

from django.http import Http404, HttpResponse
from django.template.loader import render_to_string
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.views import APIView

from generation.api import problems
from generation.api.views.images import AnyAccept


class Page(APIView):
    """A public HTML page. It ignores the Accept header and the query, to which sites append parameters (utm_source)."""

    authentication_classes = ()
    permission_classes = ()
    content_negotiation_class = AnyAccept

    def page(self, name: str, facts: dict[str, Any]) -> HttpResponse:
        return HttpResponse(render_to_string(f"generation/problems/{name}.html", facts))


@extend_schema(exclude=True)
class ProblemList(Page):
    def get(self, request: Request) -> HttpResponse:
        known = problems.known()
        facts = {
            "answers": [problem for problem in known if problem.status],
            "of_jobs": [problem for problem in known if problem.is_of_jobs],
        }
        return self.page("list", facts)


@extend_schema(exclude=True)
class ProblemDetail(Page):
    def get(self, request: Request, code: str) -> HttpResponse:
        problem = problems.find(code)
        if problem is None:
            raise Http404
        phrase = HTTPStatus(problem.status).phrase if problem.status else ""
        return self.page("one", {"problem": problem, "phrase": phrase})
