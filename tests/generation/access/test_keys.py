"""Life cycle of API keys: rotation with a grace period, changes of limits, audit entries of both."""

from datetime import UTC, datetime, timedelta

import pytest
from django.test import Client
from django.utils import timezone

from generation.access import keys
from generation.errors import KeyRefused
from generation.models import APIKey, AuditEntry
from tests.factories import make_key, make_user

pytestmark = pytest.mark.django_db


def status(plain: str) -> int:
    return Client().get("/v1/releases", headers={"Authorization": f"Bearer {plain}"}).status_code


def entries() -> list[tuple[str, str, dict]]:
    return list(AuditEntry.objects.order_by("pk").values_list("action", "subject", "detail"))


def test_a_rotated_key_has_the_rights_and_limits_of_the_old_one():
    limits = {"weight": 3, "requests_per_minute": 60, "images_per_day": 7, "retention_days": 30}
    old, plain_old = make_key(name="shop", scopes=["jobs:read", "releases:read"], **limits)

    new, plain_new = keys.rotate(old)

    assert plain_new != plain_old and status(plain_new) == 200
    assert (new.name, new.owner, new.scopes) == (old.name, old.owner, old.scopes)
    assert {field: getattr(new, field) for field in limits} == limits
    assert old.replaced_by == new and new.expires_at is None


def test_both_keys_work_until_the_grace_period_ends():
    old, plain = make_key()

    keys.rotate(old, grace=timedelta(hours=12))
    assert status(plain) == 200
    assert old.expires_at - timezone.now() < timedelta(hours=12)

    APIKey.objects.filter(pk=old.pk).update(expires_at=timezone.now())
    assert status(plain) == 401


def test_a_grace_period_never_extends_a_key_and_the_new_key_gets_the_lifetime_of_the_old():
    end = timezone.now() + timedelta(days=2)
    old, _ = make_key(expires_at=end)
    APIKey.objects.filter(pk=old.pk).update(created_at=end - timedelta(days=90))

    new, _ = keys.rotate(old)

    assert old.expires_at == end
    assert abs(new.expires_at - timezone.now() - timedelta(days=90)) < timedelta(minutes=1)


def test_a_key_that_expires_in_the_year_9999_is_rotated():
    end = datetime(9999, 12, 31, tzinfo=UTC)
    old, _ = make_key(expires_at=end)
    APIKey.objects.filter(pk=old.pk).update(created_at=timezone.now() - timedelta(days=90))

    new, _ = keys.rotate(old)

    assert new.expires_at == end


def test_a_key_is_rotated_once_and_not_after_its_end():
    rotated, revoked = make_key()[0], make_key()[0]
    expired = make_key(expires_at=timezone.now() - timedelta(seconds=1))[0]
    keys.rotate(rotated)
    keys.revoke(revoked)

    for key, words in ((rotated, "already rotated"), (revoked, "revoked"), (expired, "expired")):
        with pytest.raises(KeyRefused, match=words):
            keys.rotate(key)
    assert APIKey.objects.count() == 4


def test_every_change_of_a_key_is_recorded_once_without_its_secret():
    key, plain = keys.issue(make_user(), "shop", ["jobs:read"], limits={"images_per_day": 5})
    keys.set_limits(key, {"images_per_day": None, "weight": 1})
    keys.set_limits(key, {"images_per_day": None})
    new, _ = keys.rotate(key)
    assert keys.revoke(key) is True
    assert keys.revoke(key) is False

    actions = entries()

    assert [action for action, _, _ in actions] == [
        "key_issued",
        "key_edited",
        "key_rotated",
        "key_revoked",
    ]
    assert {subject for _, subject, _ in actions} == {str(key)}
    assert actions[0][2] == {
        "owner": "owner",
        "scopes": ["jobs:read"],
        "weight": 1,
        "images_per_day": 5,
    }
    assert actions[1][2] == {"images_per_day": [5, None]}
    assert actions[2][2]["to"] == str(new)
    assert plain[-20:] not in str(actions)


def test_limits_are_described_in_words():
    key, _ = make_key(weight=2, requests_per_minute=60, max_queued_jobs=5, retention_days=1)

    assert keys.limits_in_words(key) == [
        "weight 2",
        "60 requests per minute",
        "5 queued jobs",
        "images kept for 1 day",
    ]
    assert keys.limits_in_words(make_key()[0]) == []
