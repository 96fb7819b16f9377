"""/v1/designs: request, read and cancel designs; scopes of keys."""

import json

import pytest

from distillation.designs import lifecycle as designs
from distillation.designs.candidates import Rows
from distillation.models import Design
from distillation.pipeline.summaries import FITS
from generation.models import APIKey, AuditEntry, PromptVariant
from tests.client import API, problem
from tests.distillation.design.candidates import PARAMS, candidate
from tests.factories import make_release, make_user, make_variant

pytestmark = pytest.mark.django_db

SIZES = ((FITS["starter-1step"].image_size,) * 2,)  # that the recipe fits

LIMITS = {"size": "8MB", "time": "12ms@cpu", "memory": "500MB", "quality": "0.97"}


@pytest.fixture
def teacher():
    make_variant(tags=["vase"])
    return make_release(name="teacher-1", kind="teacher", image_sizes=SIZES)


def test_a_design_is_requested_and_followed_to_its_choice(teacher):
    api = API()
    answer = api.post("/v1/designs", LIMITS | {"wish": "smallest", "hours": 2, "tags": ["vase"]})
    assert (answer.status_code, answer["Retry-After"]) == (202, "5")
    body = answer.json()
    assert body["limits"] == {"size": 8e6, "time": 0.012, "memory": 5e8, "quality": 0.97}
    assert (body["status"], body["device"], body["wish"]) == ("queued", "cpu", "smallest")
    assert (body["teacher"], body["student"], body["tags"]) == ("teacher-1", None, ["vase"])
    design = Design.objects.get()
    assert (design.created_by, design.is_for_workers) == (api.owner, True)
    assert AuditEntry.objects.get().action == "design_created"

    designs.claim("worker-1", on=["cpu"])
    designs.note(design, seconds=1800, at_work="Candidate 0")
    rows = Rows(design)
    rows.add(lambda known: PARAMS)
    rows.keep(candidate(0, 0.9))
    body = api.get(answer["Location"]).json()
    assert (body["status"], body["progress"], body["at_work"]) == ("running", 25.0, "Candidate 0")
    [found] = body["candidates"]
    assert (found["params"]["cut"], found["costs"]["size"]) == ("tiny", 8_000_000)
    assert (found["rungs"][0]["quality"], body["chosen_recipe"]) == (0.9, None)

    designs.output(design).mkdir(parents=True)
    recipe = {"recipe": "starter-1step", "weights": "int8"}
    (designs.output(design) / "recipe.json").write_text(json.dumps(recipe))
    designs.finish(design, choice=0, reason="Because.")
    body = api.get(answer["Location"]).json()
    assert (body["status"], body["choice"], body["reason"]) == ("succeeded", 0, "Because.")
    assert body["chosen_recipe"] == recipe
    assert api.post("/v1/runs", {"recipe": body["chosen_recipe"]}).status_code == 202
    problem(api.post(f"/v1/designs/{design.pk}/cancel"), 409, "design_finished")


def test_designs_are_listed_by_status_and_canceled(teacher):
    api = API()
    first, second = (api.post("/v1/designs", {"hours": 1}).json()["id"] for _ in range(2))

    assert api.post(f"/v1/designs/{first}/cancel").json()["status"] == "canceled"
    assert [row["id"] for row in api.get("/v1/designs").json()["results"]] == [second, first]
    assert [row["id"] for row in api.get("/v1/designs?status=queued").json()["results"]] == [second]


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"size": "8"}, "size"),
        ({"time": "fast"}, "time"),
        ({"time": "1ms@" + 26 * "a"}, "time"),
        ({"time": "12ms@cuda:7"}, "There are cpu"),
        ({"quality": "97"}, "quality"),
        ({"hours": 0}, "hours"),
        ({"hours": None}, "hours"),
        ({"wish": "cheapest"}, "wish"),
        ({"recipe": "/etc/x.json"}, "recipe"),
        ({"speed": "1ms"}, "speed"),
    ],
)
def test_an_invalid_request_is_refused_with_its_field(teacher, given, field):
    refused = problem(API().post("/v1/designs", {"hours": 1} | given), 400, "invalid_request")
    assert field in json.dumps(refused) and not Design.objects.exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"recipe": {"recipe": "sd15-tiny-1step"}}, "teachers of 512 × 512 pixels"),
        ({"tags": ["spoon"]}, "has a tag of spoon"),
        ({}, "No prompt variant is active"),
    ],
)
def test_a_design_that_no_worker_could_make_is_refused(teacher, given, said):
    if not given:
        PromptVariant.objects.update(status="archived")
    refused = problem(API().post("/v1/designs", {"hours": 1} | given), 409, "distillation_refused")
    assert said in refused["detail"] and not Design.objects.exists()


def test_changing_the_gate_needs_the_permission_to_change_releases(teacher):
    given = {"hours": 1, "recipe": {"recipe": "starter-1step", "gate": {}}}
    problem(API().post("/v1/designs", given), 403, "gate_forbidden")
    allowed = API(owner=make_user(username="allowed", is_superuser=True))
    assert allowed.post("/v1/designs", given).status_code == 202


def test_a_key_reads_and_starts_designs_with_the_scopes_of_releases(teacher):
    reader = API(scopes=[APIKey.Scope.RELEASES_READ])
    assert reader.get("/v1/designs").status_code == 200
    problem(reader.post("/v1/designs", {"hours": 1}), 403, "permission_denied")
    problem(API(scopes=[APIKey.Scope.JOBS_READ]).get("/v1/designs"), 403, "permission_denied")
