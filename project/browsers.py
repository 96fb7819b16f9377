"""Middleware for people with a browser: sessions, forms, messages. Requests of the API bring a key, and pass it by."""

import re

from django.conf import settings
from django.contrib.auth import middleware as auth
from django.contrib.messages import middleware as messages
from django.contrib.sessions import middleware as sessions
from django.http import HttpRequest, HttpResponseBase
from django.middleware import csrf
from django_htmx import middleware as htmx

API = "/v1/"
_SESSION_KEY = re.compile(r"[a-z0-9]{1,40}")


class _ForBrowsers:
    """Passes requests of the API by: these know no session."""

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if request.path_info.startswith(API):
            return self.get_response(request)  # type: ignore[attr-defined]
        return super().__call__(request)  # type: ignore[misc]


class SessionMiddleware(_ForBrowsers, sessions.SessionMiddleware):
    def process_request(self, request: HttpRequest) -> None:
        """A session's key is one that Django could have made, else there is none: PostgreSQL is asked for no NUL."""
        if not _SESSION_KEY.fullmatch(request.COOKIES.get(settings.SESSION_COOKIE_NAME, "")):
            request.COOKIES.pop(settings.SESSION_COOKIE_NAME, None)
        super().process_request(request)


class CsrfViewMiddleware(_ForBrowsers, csrf.CsrfViewMiddleware):
    """Views of the API are exempt, like all of REST framework's."""


class AuthenticationMiddleware(_ForBrowsers, auth.AuthenticationMiddleware):
    pass


class MessageMiddleware(_ForBrowsers, messages.MessageMiddleware):
    pass


class HtmxMiddleware(_ForBrowsers, htmx.HtmxMiddleware):
    pass
