"""Pages of one job: result, progress card, events, cancel, delete."""

from typing import Any
from uuid import UUID

import structlog
from django.contrib import messages
from django.db.models import Q
from django.http import HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django_htmx.http import retarget, trigger_client_event
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.authentication import SessionAuthentication
from rest_framework.permissions import IsAuthenticated

from generation.api.serializers.shapes import Strict
from generation.api.views import events
from generation.api.views.jobs import found, one
from generation.jobs import estimates, retention
from generation.jobs import lifecycle as jobs
from generation.models import Job
from generation.page import code_examples
from generation.page.presentation import Shown
from generation.page.responses import PageView, PersonRequest, query

DELETED = {0: "The job was deleted.", 1: "The picture was deleted."}


class CardQuery(Strict):
    """whole: whether the card is on the job's own page; was: the status it shows."""

    whole = serializers.BooleanField(default=False)
    was = serializers.ChoiceField(Job.Status.choices)


def for_display(job: Job) -> Shown:
    """Return the job for display, with its position in the queue."""
    return Shown(job, estimates.of(job))


def card(request: PersonRequest, job: Job, *, whole: bool = False) -> HttpResponse:
    """Render the card of a job. whole: with all details."""
    return _part(request, "card", for_display(job), whole=whole)


def _part(request: PersonRequest, name: str, shown: Shown, *, whole: bool) -> HttpResponse:
    response = render(request, f"generation/page/{name}.html", {"shown": shown, "whole": whole})
    return trigger_client_event(response, "announced", {"value": shown.announcement})


class JobPage(PageView):
    """Base view for a job of the user; jobs of others give 404."""

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> HttpResponseBase:
        structlog.contextvars.bind_contextvars(job_id=str(kwargs["job_id"]))
        return super().dispatch(request, *args, **kwargs)

    def get(self, request: PersonRequest, job_id: UUID) -> HttpResponseBase:
        """Redirect to the job: after a login the browser requests the address of a button with GET."""
        return HttpResponseRedirect(reverse("result", args=[job_id]))


class Result(JobPage):
    def get(self, request: PersonRequest, job_id: UUID) -> HttpResponse:
        shown = for_display(one(request, job_id))
        facts = {"shown": shown, "code": code_examples.of(shown, request)}
        return render(request, "generation/page/job.html", facts)


class Now(JobPage):
    """Progress of an unfinished job; when it has finished, the whole card as a replacement."""

    def get(self, request: PersonRequest, job_id: UUID) -> HttpResponseBase:
        asked = query(CardQuery, request)
        job = one(request, job_id)
        if not request.htmx:
            return super().get(request, job_id)
        if job.is_terminal:
            return card(request, job, whole=asked["whole"])
        # Replace the element that sent the request; an element with its id may be a newer one.
        response = retarget(_part(request, "now", for_display(job), whole=asked["whole"]), "this")
        if asked.get("was") == job.status:
            del response["HX-Trigger"]  # nothing to announce
        return response


class Cancel(JobPage):
    def post(self, request: PersonRequest, job_id: UUID) -> HttpResponseBase:
        asked = query(CardQuery, request)
        jobs.cancel(one(request, job_id).id)
        if request.htmx:
            return card(request, one(request, job_id), whole=asked["whole"])
        return HttpResponseRedirect(reverse("result", args=[job_id]))


class Delete(JobPage):
    def post(self, request: PersonRequest, job_id: UUID) -> HttpResponseBase:
        job = found(request, Q(id=job_id))
        count = job.images.count()
        retention.purge(job.id)
        messages.success(request, DELETED.get(count, f"{count} pictures were deleted."))
        return HttpResponseRedirect(reverse("gallery"))


@extend_schema(exclude=True)
class Events(events.JobEvents):
    """Event stream as in the API, for the logged-in user."""

    authentication_classes = (SessionAuthentication,)
    permission_classes = (IsAuthenticated,)
