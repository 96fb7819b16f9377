"""Authentication by API key, and permission by the scopes of the key."""

import hashlib
import re
from threading import Lock
from typing import TYPE_CHECKING, Any

import django.db
from cachetools import TTLCache
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed, PermissionDenied
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from generation.access import keys
from generation.infra import database
from generation.models import APIKey, OwnerLimits

if TYPE_CHECKING:  # REST framework imports this module while it imports its views
    from rest_framework.views import APIView

SCHEME = "Bearer"
# Read at every request, so only needed columns.
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
    "owner__is_superuser",
    *(f"owner__limits__{field.name}" for field in OwnerLimits._meta.concrete_fields),
)
REMEMBERED_SECONDS = 0.25  # cache time of valid keys; a revoked key may work this long
# Cache of valid keys by the SHA-256 of their plain text.
remembered: TTLCache[str, APIKey] = TTLCache(maxsize=1000, ttl=REMEMBERED_SECONDS)
_guard = Lock()
_KEYS = APIKey.objects.select_related("owner__limits").only(*COLUMNS)


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
            # The same answer for unknown, wrong, revoked and expired keys gives no hint for guessing.
            raise AuthenticationFailed("The API key is not valid, was revoked or has expired.")
        try:
            key.touch()
        except django.db.Error as error:
            if not database.is_away(error):  # a standby answers reads
                raise
        return key.owner, key

    def authenticate_header(self, request: Request) -> str:
        return f'{SCHEME} realm="retort"'


def find(plain: str) -> APIKey | None:
    """Return the valid key with this plain text, or None. A key of an inactive owner is not valid."""
    if not re.fullmatch(r"[!-~]{1,200}", plain):
        return None
    digest = hashlib.sha256(plain.encode()).hexdigest()
    with _guard:
        known = remembered.get(digest)
    key = known
    if key is None:
        key = _KEYS.filter(prefix=APIKey.prefix_of(plain)).first()
    if key is None or not key.matches(plain) or not key.owner.is_active:
        return None
    if key is not known:
        with _guard:
            remembered[digest] = key
    return key


class HasScope(BasePermission):
    """Check `required_scopes = {"GET": …}` of the view. Methods without an entry are refused, except OPTIONS."""

    def has_permission(self, request: Request, view: "APIView") -> bool:
        if not isinstance(request.auth, APIKey):
            return False
        scopes: dict[str, str] = getattr(view, "required_scopes", {})
        method = request.method or ""
        if method == "OPTIONS":
            return True
        needed = scopes.get("GET" if method == "HEAD" else method)
        if needed is None:
            # Without such a method in the view DRF answers 405 later; otherwise its scope was forgotten: refuse.
            return not hasattr(view, method.lower())
        if needed not in request.auth.scopes:
            raise PermissionDenied(f"The API key lacks the scope {needed}.")
        if not keys.is_covered(needed, request.user):
            raise PermissionDenied(
                f"The owner of the API key lacks the permissions behind the scope {needed}. Staff can give them."
            )
        return True
