"""Single sign-on by a proxy that passes the account's name in the header LOGIN_HEADER. Off unless that is set."""

from django.conf import settings
from django.contrib.auth.backends import RemoteUserBackend
from django.contrib.auth.middleware import RemoteUserMiddleware


class ProxyLogin(RemoteUserMiddleware):
    """Log in the account that the header names; log it out when the header no longer names it."""

    header = "HTTP_" + settings.LOGIN_HEADER.upper().replace("-", "_")


class KnownAccounts(RemoteUserBackend):
    """Accept only existing accounts, which are made in the admin: other names get the login page."""

    create_unknown_user = False
