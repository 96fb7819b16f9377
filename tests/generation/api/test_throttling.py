"""Rate limits of keys: against real Redis, in this process and through a real web process."""

import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from deploy.local import binaries
from generation.infra import metrics, redis_client
from generation.models import APIKey, OwnerLimits
from generation.realtime.hub import SHELL
from tests.client import API, problem
from tests.factories import make_image, make_job, make_key, make_release, make_user
from tests.web import Web

pytestmark = pytest.mark.django_db
PATH = "/v1/releases"


@pytest.fixture(autouse=True)
def empty_redis(redis_server):
    return redis_server


def remaining(answer) -> tuple[int, int]:
    """Return (remaining requests, seconds until there are more) from the header."""
    match = re.fullmatch(r'"burst";r=(\d+);t=(\d+)', answer.headers["RateLimit"])
    assert match
    return int(match[1]), int(match[2])


def use_redis(monkeypatch, settings, url: str) -> None:
    settings.REDIS_URL = url
    monkeypatch.setattr(redis_client, "_client", None)
    monkeypatch.setattr(redis_client, "_resume_at", 0.0)


def test_every_answer_has_the_number_of_remaining_requests():
    api = API(requests_per_minute=3)

    answers = [api.get(PATH) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert [remaining(answer)[0] for answer in answers] == [2, 1, 0]
    assert {answer["RateLimit-Policy"] for answer in answers} == {'"burst";q=3;w=60'}
    assert all(1 <= remaining(answer)[1] <= 60 for answer in answers)


def test_a_request_above_the_limit_is_refused_with_a_retry_after():
    api = API(requests_per_minute=1)
    api.get(PATH)

    answer = api.get(PATH)

    body = problem(answer, 429, "rate_limited")
    left, seconds = remaining(answer)
    assert left == 0 and answer["Retry-After"] == str(seconds) and 1 <= seconds <= 60
    assert (
        "This key may send 1 request a minute" in body["detail"]
        and f"{seconds} s" in body["detail"]
    )


def test_on_openais_routes_the_refusal_has_openais_format():
    api = API(requests_per_minute=1)
    api.get(PATH)

    answer = api.post("/v1/images/generations", {"prompt": "x"})

    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limited")
    assert remaining(answer)[0] == 0 and 1 <= int(answer["Retry-After"]) <= 60


def test_each_key_is_counted_separately():
    one, another = API(requests_per_minute=1), API(requests_per_minute=1)
    one.get(PATH)

    assert one.get(PATH).status_code == 429
    assert another.get(PATH).status_code == 200


def test_the_setting_applies_to_keys_without_a_limit(settings):
    settings.REQUESTS_PER_MINUTE = 5

    assert API().get(PATH)["RateLimit-Policy"] == '"burst";q=5;w=60'
    assert API(requests_per_minute=9).get(PATH)["RateLimit-Policy"] == '"burst";q=9;w=60'
    assert "RateLimit" not in API(requests_per_minute=0).get(PATH)


def test_keys_without_a_limit_share_the_limit_of_their_owner(settings):
    settings.REQUESTS_PER_MINUTE = 2
    one, another = API(), API()
    assert remaining(one.get(PATH))[0] == 1
    assert remaining(another.get(PATH))[0] == 0
    assert one.get(PATH).status_code == 429
    assert API(owner=make_user(username="another")).get(PATH).status_code == 200


def test_no_key_raises_the_limit_of_a_person():
    owner = make_user()
    OwnerLimits.objects.create(owner=owner, requests_per_minute=3)
    wide, unlimited = API(requests_per_minute=1000), API(requests_per_minute=0)
    assert [remaining(api.get(PATH))[0] for api in (wide, unlimited, wide)] == [2, 1, 0]
    for api in (wide, unlimited, API()):
        said = problem(api.get(PATH), 429, "rate_limited")["detail"]
        assert said.startswith("This account may send 3 requests")


def test_a_key_may_have_a_lower_limit_than_its_owner():
    OwnerLimits.objects.create(owner=make_user(), requests_per_minute=3)
    slow, api = API(requests_per_minute=1), API()
    assert slow.get(PATH)["RateLimit-Policy"] == '"burst";q=1;w=60'
    assert slow.get(PATH).status_code == 429  # no longer counts for its owner
    assert [api.get(PATH).status_code for _ in range(3)] == [200, 200, 429]


def test_a_person_without_a_limit_is_not_limited_by_the_setting(settings):
    settings.REQUESTS_PER_MINUTE = 1
    OwnerLimits.objects.create(owner=make_user(), requests_per_minute=0)
    assert "RateLimit" not in API().get(PATH)


def test_a_key_without_a_limit_makes_no_call_to_redis(monkeypatch, settings):
    monkeypatch.setattr(
        metrics, "_is_kept_back", True
    )  # as in the web process, which sends counts later
    api = API()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        use_redis(monkeypatch, settings, f"redis://127.0.0.1:{server.getsockname()[1]}/0")

        answer = api.get(PATH)

        with pytest.raises(BlockingIOError):  # no client has connected
            server.accept()
    assert answer.status_code == 200
    assert "RateLimit" not in answer and "RateLimit-Policy" not in answer


def test_every_refused_request_counts_too():
    api = API(requests_per_minute=9, scopes=["jobs:read", "jobs:write"])
    paths = [PATH, "/v1/jobs?x=1", "/v1/jobs/00000000-0000-0000-0000-000000000000"]

    answers = [api.get(path) for path in paths]
    answers.append(api.post("/v1/jobs", {}))

    assert [answer.status_code for answer in answers] == [403, 400, 404, 400]
    assert [remaining(answer)[0] for answer in answers] == [8, 7, 6, 5]


def test_links_to_images_and_the_description_are_not_limited(settings):
    settings.REQUESTS_PER_MINUTE = 1
    api = API()
    image = make_image(job=make_job(owner=api.owner, status="succeeded"))
    link = api.get(f"/v1/images/{image.id}").json()["url"].removeprefix("http://testserver")

    for path in [link, link, "/v1/openapi.json", "/v1/openapi.json"]:
        answer = api.get(path)
        assert answer.status_code == 200 and "RateLimit" not in answer


def test_requests_of_the_shell_for_waiting_clients_do_not_count():
    api = API(requests_per_minute=2)
    api.get(PATH)

    answers = [api.get(PATH, **{"asgi.scope": {SHELL: "GET"}}) for _ in range(3)]

    assert [remaining(answer)[0] for answer in answers] == [1, 1, 1]
    assert remaining(api.get(PATH, **{"asgi.scope": {SHELL: ""}}))[0] == 0


def test_while_redis_is_unreachable_nothing_is_limited(monkeypatch, settings):
    api = API(requests_per_minute=1)
    use_redis(monkeypatch, settings, "redis://127.0.0.1:1/0")

    started = time.monotonic()
    answers = [api.get(PATH) for _ in range(5)]

    assert [answer.status_code for answer in answers] == [200] * 5
    assert "RateLimit" not in answers[0]
    assert time.monotonic() - started < 10


@pytest.fixture
def socket_url() -> Iterator[str]:
    """A Redis that listens only on a Unix socket."""
    with (
        tempfile.TemporaryDirectory() as folder
    ):  # short: a socket's path has at most 107 characters
        path = Path(folder) / "redis"
        command = [str(binaries.redis()), "--port", "0", "--unixsocket", str(path), "--save", ""]
        server = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        yield f"unix://{path}?db=1"
        server.terminate()
        server.wait(timeout=60)


def test_redis_works_through_a_unix_socket(monkeypatch, settings, socket_url):
    use_redis(monkeypatch, settings, socket_url)
    api = API(requests_per_minute=1)

    answers = [api.get(PATH) for _ in range(2)]
    redis_client.client().close()

    assert [answer.status_code for answer in answers] == [200, 429]


# --- through the web process ------------------------------------------------------------------------
@pytest.fixture
def web(transactional_db, tmp_path: Path) -> Iterator[Web]:
    web = Web(tmp_path, REQUESTS_PER_MINUTE="3")
    yield web
    web.stop()


def test_waiting_counts_as_one_request_and_the_next_above_the_limit_is_refused(web: Web):
    make_release()
    key, plain = make_key()
    job = make_job(owner=key.owner)

    def fetch(path: str) -> httpx.Response:
        return web.http.get(path, headers={"Authorization": f"Bearer {plain}"})

    waited = fetch(f"/v1/jobs/{job.id}?wait=1")
    answers = [fetch(PATH) for _ in range(3)]

    assert (waited.status_code, waited.json()["status"], remaining(waited)[0]) == (200, "queued", 2)
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [remaining(answer)[0] for answer in answers] == [1, 0, 0]
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60
    APIKey.objects.filter(pk=key.pk).update(requests_per_minute=0)
    time.sleep(0.5)  # a constantly used key is read again periodically
    assert fetch(PATH).status_code == 200
