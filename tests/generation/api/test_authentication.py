"""API keys and scopes: authentication, permissions, and error messages."""

import time
from datetime import timedelta

import pytest
from cachetools import TTLCache
from django.contrib.auth.models import Group
from django.test import Client
from django.utils import timezone

from generation.api import authentication
from generation.models import APIKey
from tests.client import API, problem
from tests.factories import make_key, make_user

pytestmark = pytest.mark.django_db


def request_releases(authorization: str | None):
    headers = {"Authorization": authorization} if authorization is not None else {}
    return Client().get("/v1/releases", headers=headers)


def test_a_valid_key_is_accepted_and_its_use_is_recorded():
    api = API()

    assert api.get("/v1/releases").status_code == 200

    api.key.refresh_from_db()
    assert api.key.last_used_at is not None


def test_without_a_key_the_answer_explains_how_to_send_one():
    answer = request_releases(None)

    body = problem(answer, 401, "not_authenticated")
    assert answer["WWW-Authenticate"] == 'Bearer realm="retort"'
    assert "Authorization: Bearer" in body["detail"]


@pytest.mark.parametrize("authorization", ["Bearer", "Basic cm86eA==", "Bearer ", "rt_1_2"])
def test_another_scheme_is_refused(authorization: str):
    problem(request_releases(authorization), 401, "authentication_failed")


@pytest.mark.parametrize("plain", ["rt_nope_nope", "x", "rt_", "rt_é_ü", "rt_\x00_x"])
def test_an_unknown_key_is_refused(plain: str):
    problem(request_releases(f"Bearer {plain}"), 401, "authentication_failed")


def test_the_right_prefix_with_a_wrong_secret_is_refused():
    key, plain = make_key()

    problem(request_releases(f"Bearer {plain[:-1]}x"), 401, "authentication_failed")
    problem(request_releases(f"Bearer {key.prefix}"), 401, "authentication_failed")


def test_revoked_and_expired_keys_and_keys_of_locked_users_are_refused():
    revoked, plain_revoked = make_key()
    APIKey.objects.filter(pk=revoked.pk).update(revoked_at=timezone.now())
    _, plain_expired = make_key(expires_at=timezone.now() - timedelta(seconds=1))
    locked = make_user(username="locked")
    _, plain_locked = make_key(owner=locked)
    locked.is_active = False
    locked.save()

    for plain in (plain_revoked, plain_expired, plain_locked):
        problem(request_releases(f"Bearer {plain}"), 401, "authentication_failed")


def test_a_key_is_stored_as_a_hash_only():
    key, plain = make_key()

    secret = plain.removeprefix(f"{key.prefix}_")
    assert secret not in " ".join(str(value) for value in APIKey.objects.values_list()[0])


@pytest.mark.parametrize(
    ("method", "path", "needed"),
    [
        ("get", "/v1/jobs", "jobs:read"),
        ("post", "/v1/jobs", "jobs:write"),
        ("get", "/v1/variants", "variants:read"),
        ("post", "/v1/variants", "variants:write"),
        ("get", "/v1/releases", "releases:read"),
    ],
)
def test_a_missing_scope_is_named(method: str, path: str, needed: str):
    api = API(scopes=[scope for scope in APIKey.Scope.values if scope != needed])

    body = problem(getattr(api, method)(path), 403, "permission_denied")

    assert needed in body["detail"]


def test_a_key_is_limited_by_its_owners_current_permissions():
    api = API()
    owner = api.owner
    granted = list(owner.user_permissions.all())
    assert api.get("/v1/releases").status_code == 200

    owner.user_permissions.clear()
    body = problem(api.get("/v1/releases"), 403, "permission_denied")
    assert "owner" in body["detail"] and "releases:read" in body["detail"]
    problem(api.post("/v1/variants", {"text": "a red vase"}), 403, "permission_denied")
    assert api.get("/v1/jobs").status_code == 200
    assert api.get("/v1/me").json()["key"]["scopes"] == ["jobs:write", "jobs:read", "variants:read"]

    group = Group.objects.create(name="Editors")
    group.permissions.set(granted)
    owner.groups.add(group)
    assert api.get("/v1/releases").status_code == 200
    assert set(api.get("/v1/me").json()["key"]["scopes"]) == set(APIKey.Scope.values)
    owner.groups.clear()
    type(owner).objects.filter(pk=owner.pk).update(is_superuser=True)
    assert api.get("/v1/releases").status_code == 200


def test_scopes_without_permissions_behind_them_cost_no_query(django_assert_num_queries):
    api = API()
    api.get("/v1/jobs")

    with django_assert_num_queries(2):  # the key, the jobs
        api.get("/v1/jobs")


def test_the_use_of_a_key_is_written_at_most_once_a_minute(django_assert_num_queries):
    api = API(owner=make_user(username="admin", is_superuser=True))
    api.get("/v1/releases")

    with django_assert_num_queries(2):  # the key, the releases
        api.get("/v1/releases")


def test_a_constantly_used_key_is_read_again_periodically(monkeypatch, django_assert_num_queries):
    monkeypatch.setattr(authentication, "remembered", TTLCache(maxsize=9, ttl=0.3))
    api = API()
    api.get("/v1/releases")

    with django_assert_num_queries(1):  # the releases
        assert api.get("/v1/releases").status_code == 200

    APIKey.objects.update(revoked_at=timezone.now())
    deadline = time.monotonic() + 5
    while api.get("/v1/releases").status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    problem(api.get("/v1/releases"), 401, "authentication_failed")


def test_a_cached_key_does_not_authenticate_another_text(monkeypatch):
    monkeypatch.setattr(authentication, "remembered", TTLCache(maxsize=9, ttl=60))
    _, plain = make_key()
    assert request_releases(f"Bearer {plain}").status_code == 200

    problem(request_releases(f"Bearer {plain[:-1]}x"), 401, "authentication_failed")
