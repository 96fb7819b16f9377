"""Who asks and what their key allows. Knows API keys and scopes; knows nothing of what is asked for."""

import hashlib
import re
import time
from typing import TYPE_CHECKING, Any

from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed, PermissionDenied
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from generation.infra.compiled import Compiled
from generation.models import APIKey

if TYPE_CHECKING:  # REST framework imports this module while it imports its views
    from rest_framework.views import APIView

SCHEME = "Bearer"
# Asked for at every request, so no more than is needed.
COLUMNS = (
    "sha256",
    "scopes",
    "weight",
    "requests_per_minute",
    "images_per_day",
    "device_seconds_per_day",
    "max_queued_jobs",
    "expires_at",
    "revoked_at",
    "last_used_at",
    "owner__is_active",
)


REMEMBERED_SECONDS = 0.25
MOST_REMEMBERED = 1000
_found: dict[str, tuple[APIKey, float]] = {}  # by the digest of the plain text
_KEYS = Compiled(
    lambda prefix: (
        APIKey.objects.filter(prefix=prefix).select_related("owner").only(*COLUMNS).order_by()
    ),
    prefix="?prefix",
)


class APIKeyAuthentication(BaseAuthentication):
    """`Authorization: Bearer rt_…`. request.user is the key's owner, request.auth the key."""

    def authenticate(self, request: Request) -> tuple[Any, APIKey] | None:
        scheme, _, plain = get_authorization_header(request).decode("latin-1").partition(" ")
        if not scheme:
            return None
        if scheme.lower() != SCHEME.lower() or not plain.strip():
            raise AuthenticationFailed("Send the key as: Authorization: Bearer rt_…")
        key = find(plain.strip())
        if key is None:
            # One answer for unknown, wrong, revoked and expired: it helps nobody to guess.
            raise AuthenticationFailed("The API key is not valid, was revoked or has expired.")
        key.touch()
        return key.owner, key

    def authenticate_header(self, request: Request) -> str:
        return f'{SCHEME} realm="retort"'


def find(plain: str) -> APIKey | None:
    """The good key with this plain text whose owner may still log in.

    Of a key that is used all the time the row is read four times a second: so long a revoked one may go on to work.
    """
    if not re.fullmatch(r"[!-~]{1,200}", plain):
        return None
    digest = hashlib.sha256(plain.encode()).hexdigest()
    known, since = _found.get(digest, (None, 0.0))
    key = known if time.monotonic() - since < REMEMBERED_SECONDS else None
    if key is None:
        key = _KEYS.first(prefix=APIKey.prefix_of(plain))
    if key is None or not key.matches(plain) or not key.owner.is_active:
        return None
    if key is not known:
        if len(_found) >= MOST_REMEMBERED:
            _found.clear()
        _found[digest] = (key, time.monotonic())
    return key


class HasScope(BasePermission):
    """A view states `required_scopes = {"GET": …}`. What it does not state is refused, except OPTIONS."""

    def has_permission(self, request: Request, view: "APIView") -> bool:
        if not isinstance(request.auth, APIKey):
            return False
        scopes: dict[str, str] = getattr(view, "required_scopes", {})
        method = request.method or ""
        if method == "OPTIONS":
            return True
        needed = scopes.get("GET" if method == "HEAD" else method)
        if needed is None:
            # The view has no such method, and DRF says so after this; or it forgot its scope, and stays shut.
            return not hasattr(view, method.lower())
        if needed not in request.auth.scopes:
            raise PermissionDenied(f"The API key lacks the scope {needed}.")
        return True
