"""Check that a request comes from staff, before its body is read."""

from django.conf import settings
from django.contrib.auth import get_user
from django.contrib.sessions.middleware import SessionMiddleware
from django.db import Error, close_old_connections
from django.http import HttpRequest, HttpResponse, parse_cookie

from project.middleware import is_session_key


def is_staff(cookies: str) -> bool:
    """Return whether the Cookie header has the session of an active staff user. Runs on a thread of Django."""
    key = parse_cookie(cookies).get(settings.SESSION_COOKIE_NAME, "")
    if not is_session_key(key):
        return False
    close_old_connections()
    request = HttpRequest()
    request.COOKIES[settings.SESSION_COOKIE_NAME] = key
    try:
        SessionMiddleware(lambda _: HttpResponse()).process_request(request)
        user = get_user(request)
    except Error:
        return False
    return user.is_active and getattr(user, "is_staff", False)
