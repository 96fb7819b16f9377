"""Log in and log out. The admin has its own login page."""

from typing import Any
from urllib.parse import urlsplit

from django.contrib.auth import views
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect

from generation.page.responses import protected


class Login(views.LoginView):
    template_name = "generation/page/login.html"

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if request.user.is_authenticated:
            return HttpResponseRedirect(self.get_success_url())
        return protected(super().dispatch(request, *args, **kwargs))

    def get_redirect_url(self, request: HttpRequest | None = None) -> str:
        url = super().get_redirect_url()
        # Never redirect to this page itself.
        return "" if urlsplit(url).path == self.request.path else url


class Logout(views.LogoutView):
    next_page = "home"
