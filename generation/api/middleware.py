"""Middleware that sets the actor of audit entries and the rate limit headers."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponseBase
from django.urls import reverse

from generation.access import audit
from generation.access.audit import Actor
from generation.api import throttling

Answer = Callable[[HttpRequest], HttpResponseBase]


def actor(get_response: Answer) -> Answer:
    """Set the actor for the audit log. The user is looked up only when an entry is written."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        with audit.acting(lambda: _actor_of(request)):
            return get_response(request)

    return middleware


def _actor_of(request: HttpRequest) -> Actor:
    user = getattr(request, "user", None)  # of the session, or the owner of the API key
    name = user.get_username() if user is not None else ""
    is_admin = request.path.startswith(reverse("admin:index"))
    return Actor(name, audit.ADMIN if is_admin else audit.API)


def rate_limit(get_response: Answer) -> Answer:
    """Add the rate limit headers to every response, errors included."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        if standing := throttling.of(request):
            for name, value in standing.headers().items():
                response[name] = value
        return response

    return middleware
