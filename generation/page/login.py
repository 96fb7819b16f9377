"""Log in and log out. The admin has its own login page, with the same limits of attempts."""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import urlsplit

from django.contrib.auth import views
from django.contrib.auth.forms import AuthenticationForm
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect

from generation.access import login_attempts
from generation.api.views.refusals import Refusal
from generation.page.responses import protected, refused

View = Callable[..., HttpResponseBase]


def limited(view: View) -> View:
    """Limit the failed attempts of a login view, whose success is recognised by its redirect."""

    @wraps(view)
    def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if request.method != "POST":
            return view(request, *args, **kwargs)
        account = request.POST.get("username", "")
        address = request.META.get("REMOTE_ADDR", "")
        if seconds := login_attempts.seconds_until_allowed(account, address):
            response = protected(refused(request, _too_many(seconds)))
            response["Retry-After"] = str(seconds)
            return response
        response = view(request, *args, **kwargs)
        if isinstance(response, HttpResponseRedirect):
            login_attempts.record_success(account, address)
        else:
            login_attempts.record_failure(account, address)
        return response

    return wrapped


def _too_many(seconds: int) -> Refusal:
    minutes = math.ceil(seconds / 60)
    detail = f"Too many attempts to log in failed. Try again in {minutes} min."
    return Refusal(429, "rate_limited", detail)


class LoginForm(AuthenticationForm):
    error_messages = {
        **AuthenticationForm.error_messages,
        "invalid_login": "The user name or the password is wrong. Capital letters count in both.",
    }


class Login(views.LoginView):
    authentication_form = LoginForm
    template_name = "generation/page/login.html"

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        # Always check the form: `limited` takes a redirect for a correct password.
        if request.method != "POST" and request.user.is_authenticated:
            return HttpResponseRedirect(self.get_success_url())
        return protected(super().dispatch(request, *args, **kwargs))

    def get_redirect_url(self, request: HttpRequest | None = None) -> str:
        url = super().get_redirect_url()
        # Never redirect to this page itself.
        return "" if urlsplit(url).path == self.request.path else url


class Logout(views.LogoutView):
    next_page = "home"
