"""What belongs to an owner does not exist for others: over every route of the URLconf, those that come later as well.

A route with a parameter that this test does not know makes it fail: say there whose it is.
"""

from collections.abc import Iterator

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from generation.models import Delivery, Job, WebhookEndpoint
from tests.client import API
from tests.people import make_image, make_job, make_user

pytestmark = pytest.mark.django_db

# Of routes: what everybody with the scope shares.
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
# Without a key: a signature is the permission, or there is nothing to hide.
OPEN = {"image-file", "image-thumbnail", "problem", "schema", "docs", "guide", "problems"}
# Any key will do, whatever its scopes.
OF_ANY_KEY = {"me"}
# With PUT a client makes its own under that name.
MAKES_ITS_OWN = {("prediction", "PUT")}


def routes(patterns=None, prefix: str = "") -> Iterator[tuple[str, URLPattern]]:
    """(path, pattern) of the API's."""
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
    if (pattern.name, method) not in MAKES_ITS_OWN
]
LISTS = [
    pytest.param(pattern, id=path)
    for path, pattern in routes()
    if not pattern.pattern.converters and "GET" in methods(pattern)
]


@pytest.fixture
def job() -> Job:
    """Somebody's, with everything that may hang on it."""
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
    return job


def ids(job: Job) -> dict[str, list[object]]:
    """What a parameter of a route may hold."""
    return {
        "job_id": [job.id],
        "prediction_id": [job.id, job.id.hex, job.external_id],
        "image_id": [job.images.get().id],
        "endpoint_id": [WebhookEndpoint.objects.get().pk],
        "delivery_id": [Delivery.objects.get().pk],
    }


def ask(api: API, method: str, path: str):
    return api.get(path) if method == "GET" else getattr(api, method.lower())(path)


def facts(job: Job) -> list:
    """Of everything that is somebody's."""
    models = (Job, WebhookEndpoint, Delivery, type(job.images.get()))
    return [list(model.objects.order_by("pk").values()) for model in models]


def test_the_routes_are_found():
    names = {pattern.name for _, pattern in routes()}

    assert {"job", "image", "jobs"} | set(SHARED) <= names
    assert len(OWNED) >= 5 and len(LISTS) >= 3


def test_only_what_is_meant_to_be_open_needs_no_key():
    without = {pattern.name for _, pattern in routes() if not methods(pattern)}

    assert without <= OPEN | OF_ANY_KEY
    for name in OF_ANY_KEY:
        assert Client().get(reverse(name)).status_code == 401


@pytest.mark.parametrize(("pattern", "method"), OWNED)
def test_what_is_somebody_elses_does_not_exist(pattern: URLPattern, method: str, job: Job):
    before = facts(job)
    (parameter,) = pattern.pattern.converters
    stranger = API(owner=make_user(username="stranger"))

    for value in ids(job)[parameter]:
        answer = ask(stranger, method, reverse(pattern.name, args=[value]))

        assert answer.status_code == 404, answer.content
        assert "somebody" not in answer.content.decode()
    assert facts(job) == before


@pytest.mark.parametrize(("pattern", "method"), OWNED)
def test_for_its_owner_it_does(pattern: URLPattern, method: str, job: Job):
    (parameter,) = pattern.pattern.converters
    owner = API(owner=job.owner)

    answer = ask(owner, method, reverse(pattern.name, args=[ids(job)[parameter][0]]))

    assert answer.status_code < 300, answer.content


@pytest.mark.parametrize("pattern", LISTS)
def test_no_list_shows_what_is_somebody_elses(pattern: URLPattern, job: Job):
    stranger = API(owner=make_user(username="stranger"))

    body = stranger.get(reverse(pattern.name)).content.decode()

    for secret in (str(job.id), job.id.hex, job.external_id, "somebody"):
        assert secret not in body


def test_who_takes_somebody_elses_name_for_a_prediction_gets_one_of_its_own(job: Job):
    before = Job.objects.filter(id=job.id).values().get()
    stranger = API(owner=make_user(username="stranger"))
    path = reverse("prediction", args=[job.external_id])

    answer = stranger.put(path, {"input": {"variant": job.variant.slug}})

    assert answer.status_code in (201, 202), answer.content
    assert Job.objects.filter(id=job.id).values().get() == before
    assert Job.objects.get(owner__username="stranger").external_id == job.external_id
