"""GET /v1/me: scopes, limits and use of a key."""

from datetime import timedelta

import pytest
from django.utils import timezone

from generation.models import OwnerLimits
from tests.client import API, problem
from tests.factories import make_embedding, make_job, make_release, make_variant

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]


def test_any_key_can_read_its_own_data():
    api = API(scopes=["variants:read"])
    body = api.get("/v1/me").json()
    assert (body["username"], body["key"]["scopes"]) == ("owner", ["variants:read"])
    assert body["key"]["prefix"] == api.key.prefix and api.plain not in str(body)
    nothing = {"requests_per_minute", "images_per_day", "max_queued_jobs"}
    assert {body["of_key"][name] for name in nothing} == {None}
    assert body["requests_left"] is None and body["of_key"]["queued_jobs"] == 0
    problem(api.get("/v1/me", {"x": 1}), 400, "invalid_request")


def test_limits_and_use_of_the_key_and_of_the_account_are_returned():
    make_release()
    make_embedding(variant=make_variant(slug="vase"))
    api = API(images_per_day=10, requests_per_minute=5)
    OwnerLimits.objects.create(owner=api.owner, images_per_day=20, max_queued_jobs=3)
    make_job(owner=api.owner)  # submitted on the page
    assert api.post("/v1/jobs", {"variant": "vase", "n": 2}).status_code == 202
    body = api.get("/v1/me").json()
    key, account = body["of_key"], body["of_account"]
    assert (key["images_per_day"], key["images_today"], key["queued_jobs"]) == (10, 2, 1)
    assert (key["requests_per_minute"], body["requests_left"]) == (5, 3)
    assert (account["images_per_day"], account["images_today"]) == (20, 2)
    assert (account["max_queued_jobs"], account["queued_jobs"]) == (3, 2)


def test_use_without_a_quota_is_read_from_the_jobs():
    api = API()
    make_job(owner=api.owner, api_key=api.key, n=2, status="succeeded", device_seconds=0.25)
    make_job(owner=api.owner)  # submitted on the page
    yesterday = timezone.now() - timedelta(days=1)
    make_job(owner=api.owner, api_key=api.key, created_at=yesterday)

    body = api.get("/v1/me").json()

    for who, images in (("of_key", 2), ("of_account", 3)):
        used = body[who]["images_today"], body[who]["device_seconds_today"]
        assert used == (images, 0.25)


@pytest.mark.parametrize(
    ("own", "of_key", "expected"), [(None, None, 7), (0, None, None), (3, None, 3), (None, 9, None)]
)
def test_the_setting_is_the_default_limit_of_requests(settings, own, of_key, expected):
    settings.REQUESTS_PER_MINUTE = 7
    api = API(**({} if of_key is None else {"requests_per_minute": of_key}))
    if own is not None:
        OwnerLimits.objects.create(owner=api.owner, requests_per_minute=own)
    body = api.get("/v1/me").json()
    assert body["of_account"]["requests_per_minute"] == expected
    assert body["of_key"]["requests_per_minute"] == of_key


def test_without_a_key_the_request_is_refused(client):
    problem(client.get("/v1/me"), 401, "not_authenticated")
