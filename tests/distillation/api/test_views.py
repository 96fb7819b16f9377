"""/v1/runs: start, read and control runs; scopes of keys."""

import pytest

from distillation.models import Run
from distillation.pipeline.summaries import FITS
from distillation.runs import lifecycle as runs
from tests.client import API, problem
from tests.distillation.factories import make_run
from tests.factories import make_release, make_user, make_variant

pytestmark = pytest.mark.django_db

SIZES = ((FITS["starter-1step"].image_size,) * 2,)  # that the recipe fits


@pytest.fixture
def teacher():
    make_variant()
    return make_release(name="teacher-1", kind="teacher", image_sizes=SIZES)


def test_a_run_is_started_and_read(teacher):
    api = API()
    answer = api.post("/v1/runs", {"recipe": {"recipe": "starter-1step", "again": {"steps": 9}}})
    assert (answer.status_code, answer["Retry-After"]) == (202, "5")
    body = answer.json()
    assert (body["status"], body["progress"], body["teacher"]) == ("queued", 0.0, "teacher-1")
    assert body["recipe"]["again"] == {"steps": 9} and body["begins_with"] is None
    runs.renew(runs.claim("worker-1")[1], stage="joint", percent=31.5)
    body = api.get(answer["Location"]).json()
    assert (body["status"], body["progress"]) == ("running", 31.5)
    assert (body["stage"], body["slices"]) == ("joint", 2)
    assert Run.objects.get().created_by == api.owner
    problem(api.post("/v1/runs"), 409, "run_open")


def test_a_run_with_tags_needs_prompts_that_have_one(teacher):
    make_variant(slug="red-vase", tags=["vase"])
    refused = problem(API().post("/v1/runs", {"tags": ["bowl"]}), 409, "distillation_refused")
    assert "has a tag of bowl" in refused["detail"]
    assert API().post("/v1/runs", {"tags": ["vase"]}).json()["tags"] == ["vase"]


def test_a_run_without_fields_gets_the_configured_recipe_and_policy(teacher, settings):
    settings.PROMOTION = "manual"
    body = API().post("/v1/runs").json()
    assert (body["recipe"], body["policy"]) == ({"recipe": settings.DISTILLATION_RECIPE}, "manual")


@pytest.mark.parametrize("policy", ["auto", "canary"])
def test_no_key_can_exceed_the_configured_policy(teacher, settings, policy):
    settings.PROMOTION = "manual"
    api = API(owner=make_user(is_superuser=True))
    refused = problem(api.post("/v1/runs", {"policy": policy}), 400, "invalid_request")
    assert "PROMOTION=manual" in refused["detail"] and not Run.objects.exists()
    assert api.post("/v1/runs", {"policy": "manual"}).status_code == 202


def test_a_run_may_have_a_stricter_policy_than_configured(teacher, settings):
    settings.PROMOTION = "auto"
    assert API().post("/v1/runs", {"policy": "canary"}).json()["policy"] == "canary"


@pytest.mark.parametrize("field", ["gate", "evaluation"])
def test_changing_the_gate_needs_the_permission_to_change_releases(teacher, field):
    recipe = {"recipe": "starter-1step", field: {}}
    problem(API().post("/v1/runs", {"recipe": recipe}), 403, "gate_forbidden")
    assert not Run.objects.exists()
    allowed = API(owner=make_user(username="allowed", is_superuser=True))
    assert allowed.post("/v1/runs", {"recipe": recipe}).status_code == 202


@pytest.mark.parametrize(
    "given",
    [
        {"recipe": 7},
        {"recipe": {"steps": 1}},
        {"recipe": "/etc/x.json"},
        {"recipe": "my-recipe"},
        {"recipe": {"recipe": "my-recipe"}},
        {"recipe": {"recipe": "starter-1step", "agian": {}}},
        {"recipe": {"recipe": "starter-1step", "timesteps": 999}},
        {"policy": "maybe"},
        {"speed": 1},
    ],
)
def test_an_invalid_request_is_refused(teacher, given):
    problem(API().post("/v1/runs", given), 400, "invalid_request")
    assert not Run.objects.exists()


def test_a_run_without_a_teacher_is_refused():
    make_variant()
    problem(API().post("/v1/runs"), 422, "release_not_available")


def test_a_run_is_paused_resumed_and_canceled():
    run, api = make_run(), API()
    for name, status in (("pause", "paused"), ("resume", "queued"), ("cancel", "canceled")):
        assert api.post(f"/v1/runs/{run.name}/{name}").json()["status"] == status
    assert api.post(f"/v1/runs/{run.name}/cancel").status_code == 200
    problem(api.post(f"/v1/runs/{run.name}/resume"), 409, "run_finished")
    problem(api.post("/v1/runs/nobody/pause"), 404, "not_found")


def test_the_list_is_filtered_and_a_finished_run_has_the_checks_of_its_gate():
    run = make_run()
    check = {"name": "each variant", "passed": True, "limit": -0.6, "found": None, "low": None,
             "detail": ""}  # fmt: skip
    runs.finish(runs.claim("worker-1")[1], gate={"passed": True, "checks": [check]}, outcome="candidate")  # fmt: skip
    make_run()
    (found,) = API().get("/v1/runs", {"status": "succeeded"}).json()["results"]
    assert (found["name"], found["outcome"], found["gate"]) == (run.name, "candidate", [check])


def test_reading_and_starting_runs_need_their_scopes():
    reader = API(scopes=["releases:read"])
    assert reader.get("/v1/runs").status_code == 200
    problem(reader.post("/v1/runs"), 403, "permission_denied")
    problem(API(scopes=["jobs:write"]).get("/v1/runs"), 403, "permission_denied")
