"""GET /v1/releases: the values of `model`."""

import pytest

from tests.client import API, problem
from tests.factories import make_release

pytestmark = pytest.mark.django_db


def test_releases_are_listed_newest_first_and_read_by_name():
    make_release(name="first", kind="teacher", steps=25)
    make_release(name="second", image_sizes=((64, 64), (128, 64)))
    api = API()

    rows = api.get("/v1/releases").json()["results"]

    assert [row["name"] for row in rows] == ["second", "first"]
    assert rows[0]["sizes"] == ["64x64", "128x64"]
    assert (rows[1]["kind"], rows[1]["num_inference_steps"]) == ("teacher", 25)
    assert api.get("/v1/releases/first").json() == rows[1]
    problem(api.get("/v1/releases/third"), 404, "not_found")


def test_releases_are_filtered_by_kind_and_status():
    make_release(name="teacher", kind="teacher")
    make_release(name="student")
    make_release(name="candidate")
    api = API()

    found = api.get("/v1/releases", {"kind": "student", "status": "candidate"}).json()["results"]

    assert [row["name"] for row in found] == ["candidate"]
