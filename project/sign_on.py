"""Single sign-on: the account that a proxy has logged in, named in the header LOGIN_HEADER. Off unless that is set."""

from django.conf import settings
from django.contrib.auth.backends import RemoteUserBackend
from django.contrib.auth.middleware import RemoteUserMiddleware


class ProxyLogin(RemoteUserMiddleware):
    """Log in whom the header names, and log out who was logged in by it and is no longer named."""

    header = "HTTP_" + settings.LOGIN_HEADER.upper().replace("-", "_")


class KnownAccounts(RemoteUserBackend):
    """Accounts are made in the admin: an unknown name is nobody, and gets the page of the login."""

    create_unknown_user = False
