"""Life cycle of API keys: issue, limit, rotate and revoke, each with an audit entry."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.template.defaultfilters import pluralize
from django.utils import timezone

from generation.access import audit
from generation.errors import KeyRefused
from generation.models import APIKey

# Fields of a key that can be changed later.
LIMITS = (
    "weight",
    "requests_per_minute",
    "images_per_day",
    "device_seconds_per_day",
    "max_queued_jobs",
    "retention_days",
)
GRACE = timedelta(days=7)
_IN_WORDS = {
    "requests_per_minute": "{} request{} per minute",
    "images_per_day": "{} image{} per day",
    "device_seconds_per_day": "{} device second{} per day",
    "max_queued_jobs": "{} queued job{}",
    "retention_days": "images kept for {} day{}",
}

Limits = Mapping[str, int | None]


def scopes_of(person: Any) -> list[str]:
    """Return the scopes that the person may give to a key, by their own permissions."""
    return [scope for scope in APIKey.Scope.values if is_covered(scope, person)]


def is_covered(scope: str, person: Any) -> bool:
    """Return whether the person's permissions cover the scope. Costs no query for a scope that needs none."""
    return person.has_perms(settings.SCOPE_PERMISSIONS.get(scope, ()))


def issue(
    owner,
    name: str,
    scopes: list[str],
    *,
    expires_at: datetime | None = None,
    secret: str = "",
    limits: Limits | None = None,
) -> tuple[APIKey, str]:
    """Create a key. Return it with its plain text, which is not stored. limits: values of LIMITS; secret: for tests."""
    with transaction.atomic():
        key, plain = APIKey.objects.issue(
            owner, name, scopes, secret=secret, expires_at=expires_at, limits=limits
        )
        facts = {field: value for field, value in _limits_of(key).items() if value is not None}
        audit.record("key_issued", key, owner=str(owner), scopes=list(scopes), **facts)
    return key, plain


def rotate(key: APIKey, *, grace: timedelta = GRACE) -> tuple[APIKey, str]:
    """Create a key with the same name, owner, scopes and limits. Return it with its plain text.

    The old key remains valid for `grace`; the new one is valid for as long as the old one was. Raises KeyRefused.
    """
    with transaction.atomic():
        old = APIKey.objects.select_related("owner").select_for_update(of=("self",)).get(pk=key.pk)
        now = timezone.now()
        if old.state != APIKey.ACTIVE:
            raise KeyRefused(f"The key {old.prefix} is {old.state}. Make a new key.")
        if old.replaced_by_id is not None:
            raise KeyRefused(f"The key {old.prefix} was already rotated. Rotate its successor.")
        new, plain = APIKey.objects.issue(
            old.owner,
            old.name,
            old.scopes,
            expires_at=_end_of_successor(old, now),
            limits=_limits_of(old),
        )
        end = now + grace
        old.expires_at = min(old.expires_at, end) if old.expires_at else end
        old.replaced_by = new
        old.save(update_fields=["expires_at", "replaced_by"])
        audit.record(
            "key_rotated", old, to=str(new), expires_at=old.expires_at.isoformat(timespec="minutes")
        )
    key.refresh_from_db()
    return new, plain


def _end_of_successor(old: APIKey, now: datetime) -> datetime | None:
    if old.expires_at is None:
        return None
    try:
        return now + (old.expires_at - old.created_at)
    except OverflowError:  # people write the year 9999 for "never"
        return old.expires_at


def set_limits(key: APIKey, limits: Limits) -> None:
    """Change some of LIMITS."""
    with transaction.atomic():
        row = APIKey.objects.select_for_update().get(pk=key.pk)
        before = _limits_of(row)
        changed = {
            field: [before[field], value]
            for field, value in limits.items()
            if before[field] != value
        }
        if changed:
            APIKey.objects.filter(pk=key.pk).update(**{field: limits[field] for field in changed})
            audit.record("key_edited", row, **changed)
    key.refresh_from_db()


def revoke(key: APIKey) -> bool:
    """Revoke the key. Return False if it was already revoked."""
    with transaction.atomic():
        if not APIKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=timezone.now()):
            return False
        audit.record("key_revoked", key)
    key.refresh_from_db()
    return True


def limits_in_words(key: APIKey) -> list[str]:
    """Return the limits that differ from the defaults, as phrases."""
    words = [f"weight {key.weight}"] if key.weight != 1 else []
    for field, text in _IN_WORDS.items():
        value = getattr(key, field)
        if value is not None:
            words.append(text.format(value, pluralize(value)))
    return words


def _limits_of(key: APIKey) -> dict[str, int | None]:
    return {field: getattr(key, field) for field in LIMITS}
