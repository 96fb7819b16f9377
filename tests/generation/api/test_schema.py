"""OpenAPI schema: complete, without warnings, correct, and its page loads only from this host."""

import re

import pytest
from django.contrib.staticfiles import finders
from django.core.management import call_command
from django.test import Client
from drf_spectacular.generators import SchemaGenerator

from distillation.pipeline.summaries import FITS
from generation.api import openapi
from generation.models import Job
from tests.client import API
from tests.distillation.factories import make_run
from tests.factories import (
    make_delivery,
    make_embedding,
    make_endpoint,
    make_image,
    make_job,
    make_release,
    make_user,
    make_variant,
)

pytestmark = pytest.mark.django_db


def schema() -> dict:
    return Client().get("/v1/openapi.json").json()


def test_the_schema_is_valid_and_generated_without_warnings(tmp_path):
    file = tmp_path / "schema.yml"

    call_command("spectacular", "--fail-on-warn", "--validate", "--file", str(file))

    assert file.stat().st_size > 1000


def test_every_operation_is_described_with_its_security():
    operations = {
        (method, path): operation
        for path, methods in schema()["paths"].items()
        for method, operation in methods.items()
    }

    assert {path for _, path in operations} == {
        "/v1/me", "/v1/variants", "/v1/variants/{slug}", "/v1/variants/import",
        "/v1/variants/images/{image_id}/thumbnail",
        "/v1/jobs", "/v1/jobs/{job_id}", "/v1/jobs/{job_id}/cancel",
        "/v1/jobs/{job_id}/events",
        "/v1/images/{image_id}", "/v1/images/{image_id}/file", "/v1/images/{image_id}/thumbnail",
        "/v1/releases", "/v1/releases/{name}",
        "/v1/queues", "/v1/queues/{name}", "/v1/queues/{name}/pause", "/v1/queues/{name}/resume",
        "/v1/predictions", "/v1/predictions/{prediction_id}", "/v1/predictions/{prediction_id}/cancel",
        "/v1/predictions/{prediction_id}/stream",
        "/v1/images/generations", "/v1/models", "/v1/models/{name}",
        "/v1/models/{owner}/{name}", "/v1/models/{owner}/{name}/predictions",
        "/v1/models/{owner}/{name}/versions/{version}",
        "/v1/webhooks", "/v1/webhooks/{endpoint_id}/enable", "/v1/webhooks/{endpoint_id}/test",
        "/v1/webhooks/default/secret",
        "/v1/webhooks/deliveries", "/v1/webhooks/deliveries/{delivery_id}/replay",
        "/v1/runs", "/v1/runs/{name}", "/v1/runs/{name}/pause", "/v1/runs/{name}/resume", "/v1/runs/{name}/cancel",
        "/v1/designs", "/v1/designs/{number}", "/v1/designs/{number}/cancel",
    }  # fmt: skip
    for (_, path), operation in operations.items():
        assert operation["description"], path
        needs_key = operation.get("security") not in ([], [{}], None)
        assert needs_key == (not path.endswith(("/file", "/thumbnail"))), path
    assert schema()["components"]["securitySchemes"]["apiKey"]["scheme"] == "bearer"


def test_the_schema_has_the_request_headers_and_the_limits_of_each_route():
    paths = schema()["paths"]
    waits = {"Prefer", "Cancel-After"}
    for method, path, expected in (
        ("post", "/v1/jobs", waits | {"Idempotency-Key"}),
        ("post", "/v1/predictions", waits | {"Idempotency-Key"}),
        ("post", "/v1/models/{owner}/{name}/predictions", waits | {"Idempotency-Key"}),
        ("put", "/v1/predictions/{prediction_id}", waits),
        ("post", "/v1/images/generations", {"Idempotency-Key"}),
    ):
        found = paths[path][method]["parameters"]
        assert {one["name"] for one in found if one["in"] == "header"} == expected, path
    for path, methods in paths.items():
        for method, operation in methods.items():
            assert ("401" in operation["responses"]) == ("429" in operation["responses"]), (
                method,
                path,
            )


def test_answers_have_the_fields_that_the_schema_promises():
    api = API()
    job = make_job(owner=api.owner, status="succeeded")
    image = make_image(job=job)
    make_run()
    make_delivery(endpoint=make_endpoint(owner=api.owner), job=job)
    components = schema()["components"]["schemas"]
    shown = {
        "Job": api.get(f"/v1/jobs/{job.id}").json(),
        "Image": api.get(f"/v1/jobs/{job.id}").json()["images"][0],
        "ImageDetail": api.get(f"/v1/images/{image.id}").json(),
        "Me": api.get("/v1/me").json(),
        "Variant": api.get("/v1/variants").json()["results"][0],
        "Release": api.get("/v1/releases").json()["results"][0],
        "QueueState": api.get("/v1/queues/generation").json(),
        "Run": api.get("/v1/runs").json()["results"][0],
        "Webhook": api.get("/v1/webhooks").json()["results"][0],
        "Delivery": api.get("/v1/webhooks/deliveries").json()["results"][0],
        "Prediction": api.get("/v1/predictions").json()["results"][0],
        "ReplicateModel": api.get("/v1/models/retort/student").json(),
        "Version": api.get("/v1/models/retort/student").json()["latest_version"],
    }

    for name, answer in shown.items():
        properties = components[name]["properties"]
        assert set(answer) == set(properties), name
        if "$ref" in properties.get("urls", {}):
            urls = components[properties["urls"]["$ref"].split("/")[-1]]["properties"]
            assert set(answer["urls"]) <= set(urls), name
    problem = api.get("/v1/jobs", {"x": 1}).json()
    assert (
        set(components["Problem"]["required"])
        <= set(problem)
        <= set(components["Problem"]["properties"])
    )


def test_the_page_loads_only_from_this_host():
    page = Client().get("/v1/docs").content.decode()

    assert re.findall(r"""(?:src|href)=["'](?:https?:)?//[^"']*""", page) == []
    assets = re.findall(r"""(?:src|href)=["'](/[^"']*)""", page)
    assert len(assets) >= 3
    for asset in assets:
        if asset.startswith("/static/"):
            assert finders.find(asset.removeprefix("/static/")), asset
        else:
            assert Client().get(asset).status_code == 200, asset


def test_the_schema_is_computed_once(monkeypatch):
    first = Client().get("/v1/openapi.json")
    monkeypatch.setattr(SchemaGenerator, "get_schema", None)

    again = Client().get("/v1/openapi.json")

    assert (again.status_code, again.content) == (200, first.content)
    assert again["Content-Type"] == "application/vnd.oai.openapi+json"


def operations() -> dict[str, tuple[str, str, dict]]:
    """Operation id → method, path, operation."""
    return {
        operation["operationId"]: (method, path, operation)
        for path, methods in schema()["paths"].items()
        for method, operation in methods.items()
    }


def test_every_operation_has_a_summary_and_a_group_that_is_explained():
    document = schema()
    groups = {tag["name"] for tag in document["tags"] if tag["description"]}
    for name, (_, _, operation) in operations().items():
        assert 5 < len(operation["summary"]) < 90 and not operation["summary"].endswith("."), name
        assert len(operation["tags"]) == 1 and set(operation["tags"]) <= groups, name
    assert {tag for _, _, one in operations().values() for tag in one["tags"]} == groups
    assert operations()["create_job"][2]["summary"] == "Create a job"


def example_of(operation: dict) -> dict:
    (example,) = operation["requestBody"]["content"]["application/json"]["examples"].values()
    return example["value"]


def test_every_body_has_an_example():
    bodies = {name for name, (_, _, one) in operations().items() if "requestBody" in one}
    assert bodies == set(openapi.BODIES)
    for name in bodies:
        assert example_of(operations()[name][2]) == openapi.BODIES[name]


def test_the_examples_are_accepted_as_requests(redis_server, settings):
    settings.OPENAI_WAIT_SECONDS = 0.1
    size = FITS["starter-1step"].image_size
    make_release(name="teacher", kind="teacher", image_sizes=((size, size),))
    make_release(covered_variants=["the-second"])
    make_variant(slug="draft", status="draft")
    for slug in ("the-first", "the-second"):
        make_embedding(variant=make_variant(slug=slug, text=f'{slug} "vase" é'))
    api = API(owner=make_user(username="admin", is_superuser=True))
    tried = set()
    for name, (method, path, operation) in operations().items():
        if "requestBody" not in operation:
            continue
        names = {"owner": "retort", "name": "student", "prediction_id": "mine", "slug": "the-first"}
        if name == "pause_queue":
            names["name"] = "generation"
        answer = getattr(api, method)(path.format(**names), example_of(operation))
        if name == "create_images":  # no worker runs, so the wait times out
            assert answer.status_code in (503, 504), answer.content
        else:
            assert answer.status_code in (200, 201, 202), (name, answer.content)
        tried.add(name)
    assert tried == set(openapi.BODIES)
    assert set(Job.objects.values_list("variant__slug", flat=True)) == {"the-second"}
    assert Job.objects.count() == 5
