"""Objects of an owner are not found by others: over every route of the URLconf, future ones included.

The tests fail for a route with an unknown parameter: add its values to the fixture `ids`.
"""

from collections.abc import Iterator

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from generation.models import Delivery, Job, WebhookEndpoint
from tests.client import API
from tests.factories import make_image, make_job, make_user

pytestmark = pytest.mark.django_db

# Names of routes whose objects are shared by all keys with the scope.
SHARED = {
    "variant": "the catalogue",
    "release": "releases",
    "queue": "queues of jobs",
    "queue-pause": "",
    "queue-resume": "",
    "run": "runs of redistillation",
    "run-pause": "",
    "run-resume": "",
    "run-cancel": "",
    "design": "designs of students",
    "design-cancel": "",
    "replicate-model": "releases under Replicate's names",
    "replicate-model-predictions": "",
    "replicate-version": "",
    "openai-model": "releases under OpenAI's names",
}
# Routes without a key: a signature gives the permission, or the content is public.
OPEN = {
    "image-file",
    "image-thumbnail",
    "variant-image",
    "problem",
    "schema",
    "docs",
    "guide",
    "problems",
}
# Routes for any key, whatever its scopes.
OF_ANY_KEY = {"me"}
# With PUT a client creates its own object under the id.
CREATES_ITS_OWN = {("prediction", "PUT")}


def routes(patterns=None, prefix: str = "") -> Iterator[tuple[str, URLPattern]]:
    """Yield (path, pattern) of the routes of the API."""
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        path = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from routes(pattern.url_patterns, path)
        elif path.startswith("v1/"):
            yield path, pattern


def methods(pattern: URLPattern) -> list[str]:
    view = getattr(pattern.callback, "view_class", None) or getattr(pattern.callback, "cls", None)
    return sorted(getattr(view, "required_scopes", {}))


OWNED = [
    pytest.param(pattern, method, id=f"{method} {path}")
    for path, pattern in routes()
    if pattern.pattern.converters and pattern.name not in SHARED
    for method in methods(pattern)
    if (pattern.name, method) not in CREATES_ITS_OWN
]
LISTS = [
    pytest.param(pattern, id=path)
    for path, pattern in routes()
    if not pattern.pattern.converters and "GET" in methods(pattern)
]


@pytest.fixture
def job() -> Job:
    """A job with every kind of row that may refer to it."""
    owner = make_user(username="somebody")
    job = make_job(owner=owner, external_id="order-17")
    make_image(job=job)
    endpoint = WebhookEndpoint.objects.create(
        owner=owner, url="https://somebody.example/hook", failures=1
    )
    Delivery.objects.create(
        owner=owner, endpoint=endpoint, job=job, event="start", status="dead", body="{}"
    )
    job.webhook = endpoint
    job.save()
    make_job(owner=owner, webhook=endpoint, status=Job.Status.CANCELED)  # of a test event
    return job


def ids(job: Job) -> dict[str, list[object]]:
    """Values for the parameters of routes."""
    return {
        "job_id": [job.id],
        "prediction_id": [job.id, job.id.hex, job.external_id],
        "image_id": [job.images.get().id],
        "endpoint_id": [WebhookEndpoint.objects.get().pk],
        "delivery_id": [Delivery.objects.get().pk],
    }


def send(api: API, method: str, path: str):
    return api.get(path) if method == "GET" else getattr(api, method.lower())(path)


def facts(job: Job) -> list:
    """Return the state of everything that has an owner."""
    models = (Job, WebhookEndpoint, Delivery, type(job.images.get()))
    return [list(model.objects.order_by("pk").values()) for model in models]


def test_the_routes_are_found():
    names = {pattern.name for _, pattern in routes()}

    assert {"job", "image", "jobs"} | set(SHARED) <= names
    assert len(OWNED) >= 5 and len(LISTS) >= 3


def test_only_the_open_routes_need_no_key():
    without = {pattern.name for _, pattern in routes() if not methods(pattern)}

    assert without <= OPEN | OF_ANY_KEY
    for name in OF_ANY_KEY:
        assert Client().get(reverse(name)).status_code == 401


@pytest.mark.parametrize(("pattern", "method"), OWNED)
def test_objects_of_another_owner_are_not_found(pattern: URLPattern, method: str, job: Job):
    before = facts(job)
    (parameter,) = pattern.pattern.converters
    other_owner = API(owner=make_user(username="stranger"))

    for value in ids(job)[parameter]:
        answer = send(other_owner, method, reverse(pattern.name, args=[value]))

        assert answer.status_code == 404, answer.content
        assert "somebody" not in answer.content.decode()
    assert facts(job) == before


@pytest.mark.parametrize(("pattern", "method"), OWNED)
def test_objects_are_found_by_their_owner(pattern: URLPattern, method: str, job: Job):
    (parameter,) = pattern.pattern.converters
    owner = API(owner=job.owner)

    answer = send(owner, method, reverse(pattern.name, args=[ids(job)[parameter][0]]))

    assert answer.status_code < 300, answer.content


@pytest.mark.parametrize("pattern", LISTS)
def test_no_list_shows_objects_of_another_owner(pattern: URLPattern, job: Job):
    other_owner = API(owner=make_user(username="stranger"))

    body = other_owner.get(reverse(pattern.name)).content.decode()

    for secret in (str(job.id), job.id.hex, job.external_id, "somebody"):
        assert secret not in body


def test_a_put_under_the_id_of_another_owners_prediction_creates_a_new_one(job: Job):
    before = Job.objects.filter(id=job.id).values().get()
    other_owner = API(owner=make_user(username="stranger"))
    path = reverse("prediction", args=[job.external_id])

    answer = other_owner.put(path, {"input": {"variant": job.variant.slug}})

    assert answer.status_code in (201, 202), answer.content
    assert Job.objects.filter(id=job.id).values().get() == before
    assert Job.objects.get(owner__username="stranger").external_id == job.external_id
