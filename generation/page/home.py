"""Home page: the form, unfinished jobs, and the gallery."""

import structlog
from django.conf import settings
from django.http import HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django_htmx.http import reswap, retarget

from generation.api.views.jobs import owned
from generation.api.views.refusals import Refusal
from generation.models import Job
from generation.page.forms import CreateForm, Filled, FormErrors, FormValues, SearchForm, submit
from generation.page.gallery import gallery
from generation.page.jobs import card, for_display
from generation.page.login import Login
from generation.page.responses import PageView, PersonRequest, query, read, refused

MAX_OPEN = 10  # unfinished jobs shown
OPEN = (Job.Status.QUEUED, Job.Status.RUNNING)
FORM = "create"  # id of the form
REFUSED = 422  # the error status for which the script shows the response as the form


class Home(PageView):
    def anonymous(self, request: PersonRequest) -> HttpResponseBase:
        # A link with settings of the form goes through /login, which returns to it.
        if request.method in ("GET", "HEAD") and not request.htmx and not request.GET:
            return Login.as_view()(request)
        return super().anonymous(request)

    def get(self, request: PersonRequest) -> HttpResponse:
        return _page(request, Filled(FormValues.of(query(CreateForm, request)), request.user))

    def post(self, request: PersonRequest) -> HttpResponseBase:
        form = read(CreateForm, request.POST)
        values = FormValues.of(form)
        if "look" in form:
            return _page(request, Filled(values, request.user))
        made = submit(request.user, values)
        if isinstance(made, FormErrors):
            return _refused(request, values, made)
        structlog.contextvars.bind_contextvars(job_id=str(made.id))
        if request.htmx:
            return card(request, owned(request).get(id=made.id))
        return HttpResponseRedirect(reverse("result", args=[made.id]))


class Choices(PageView):
    """Suggestions of prompt variants while the user types."""

    def get(self, request: PersonRequest) -> HttpResponseBase:
        values = FormValues.of(query(SearchForm, request))
        if not request.htmx:
            return HttpResponseRedirect(f"{reverse('home')}?{request.GET.urlencode()}")
        found = {"filled": Filled(values, request.user), "is_search": True}
        return render(request, "generation/page/choices.html", found)


def _page(request: PersonRequest, filled: Filled) -> HttpResponse:
    rows = owned(request).filter(status__in=OPEN).order_by("-created_at", "-id")
    unfinished = [for_display(job) for job in rows[:MAX_OPEN]]
    facts = {"open": unfinished, "gallery": gallery(request), **_facts(filled)}
    return render(request, "generation/page/home.html", facts)


def _refused(request: PersonRequest, values: FormValues, errors: FormErrors) -> HttpResponse:
    """Show the form again with its values and errors."""
    if request.htmx and request.htmx.trigger != FORM:  # sent by a job's card: keep the form
        return refused(request, Refusal(REFUSED, "invalid_request", errors.text))
    filled = Filled(values, request.user, errors)
    if request.htmx:
        form = render(request, "generation/page/form.html", _facts(filled))
        response = reswap(retarget(form, f"#{FORM}"), "outerHTML")
    else:
        response = _page(request, filled)
    response.status_code = REFUSED
    return response


def _facts(filled: Filled) -> dict[str, object]:
    return {
        "filled": filled,
        "most_images": settings.MAX_IMAGES_PER_JOB,
    }
