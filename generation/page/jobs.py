"""One job for the person who asked for it: its page, its card while it goes on, its events, its end."""

from typing import Any
from uuid import UUID

import structlog
from django.db.models import Q
from django.http import HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django_htmx.http import retarget, trigger_client_event
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.authentication import SessionAuthentication
from rest_framework.permissions import IsAuthenticated

from generation.api.serializers import Strict
from generation.api.views import events
from generation.api.views.jobs import found, one
from generation.jobs import estimates, retention
from generation.jobs import lifecycle as jobs
from generation.models import Job
from generation.page.presentation import Shown
from generation.page.responses import PageView, PersonRequest, read


class CardQuery(Strict):
    """whole: it is the job's own page; was: the status that it shows."""

    whole = serializers.BooleanField(required=False, default=False)
    was = serializers.ChoiceField(Job.Status.choices, required=False)


def alone(job: Job) -> Shown:
    """With its place in the queue."""
    return Shown(job, estimates.of(job))


def card(request: PersonRequest, job: Job, *, whole: bool = False) -> HttpResponse:
    """A part of a page. whole: with all that is known of the job."""
    return _part(request, "card", alone(job), whole=whole)


def _part(request: PersonRequest, name: str, shown: Shown, *, whole: bool) -> HttpResponse:
    response = render(request, f"generation/page/{name}.html", {"shown": shown, "whole": whole})
    return trigger_client_event(response, "announced", {"value": shown.announcement})


class JobPage(PageView):
    """Of a job of the person; another's does not exist."""

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> HttpResponseBase:
        structlog.contextvars.bind_contextvars(job_id=str(kwargs["job_id"]))
        return super().dispatch(request, *args, **kwargs)


class Result(JobPage):
    def get(self, request: PersonRequest, job_id: UUID) -> HttpResponse:
        shown = alone(one(request, job_id))
        return render(request, "generation/page/job.html", {"shown": shown})


class Now(JobPage):
    """What changes while a job goes on; when it has ended the whole card, to take the old one's place."""

    def get(self, request: PersonRequest, job_id: UUID) -> HttpResponseBase:
        asked = read(CardQuery, request.GET)
        job = one(request, job_id)
        if not request.htmx:
            return HttpResponseRedirect(reverse("result", args=[job_id]))
        if job.is_terminal:
            return card(request, job, whole=asked["whole"])
        # Not the card, but the part of it that asked. By no id: it may have been replaced meanwhile.
        response = retarget(_part(request, "now", alone(job), whole=asked["whole"]), "this")
        if asked.get("was") == job.status:
            del response["HX-Trigger"]  # nothing to announce
        return response


class Cancel(JobPage):
    def post(self, request: PersonRequest, job_id: UUID) -> HttpResponseBase:
        asked = read(CardQuery, request.GET)
        jobs.cancel(one(request, job_id).id)
        if request.htmx:
            return card(request, one(request, job_id), whole=asked["whole"])
        return HttpResponseRedirect(reverse("result", args=[job_id]))


class Delete(JobPage):
    def post(self, request: PersonRequest, job_id: UUID) -> HttpResponseBase:
        retention.purge(found(request, Q(id=job_id)).id)
        return HttpResponseRedirect(reverse("gallery"))


@extend_schema(exclude=True)
class Events(events.JobEvents):
    """As over the API, for who has logged in."""

    authentication_classes = (SessionAuthentication,)
    permission_classes = (IsAuthenticated,)
