"""Event streams over HTTP, without the ASGI shell: permission, instructions to the shell, answers without it."""

import json

import pytest

from generation.infra import events, metrics
from generation.realtime.hub import SHELL
from generation.realtime.sse import HEADER, Stream
from tests.client import API, problem
from tests.factories import make_image, make_job, make_user
from tests.sse import Event, parse

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]

SHELLED = {"asgi.scope": {SHELL: ""}}


def path(job) -> str:
    return f"/v1/jobs/{job.id}/events"


def stream_of(answer) -> Stream:
    assert answer.status_code == 200, answer.content
    return Stream.decode(answer[HEADER])


def test_the_answer_to_the_shell_has_the_stream_to_follow_and_the_job():
    api = API()
    job = make_job(owner=api.owner, status="running")

    answer = api.get(path(job), HTTP_ACCEPT="text/event-stream", **SHELLED)

    stream = stream_of(answer)
    assert answer["Content-Type"] == "text/event-stream"
    assert (answer["Cache-Control"], answer["X-Accel-Buffering"]) == ("no-cache", "no")
    assert json.loads(answer.content) == api.get(f"/v1/jobs/{job.id}").json()
    assert (stream.then, stream.style, stream.is_final) == (path(job), "job", False)
    assert set(stream.words) == {"event", "succeeded", "failed", "canceled"}


def test_watching_marks_the_job_and_returns_an_id_of_its_stream(redis_server):
    api = API()
    job = make_job(owner=api.owner)

    first, second = (stream_of(api.get(path(job), **SHELLED)) for _ in range(2))

    assert first.id == second.id == redis_server.xrange(first.key)[0][0]
    assert {0 < redis_server.ttl(mark) <= first.mark_seconds for mark in first.marks} == {True}
    assert len(first.marks) == 2
    without = stream_of(api.get(path(job), {"previews": "false"}, **SHELLED))
    assert len(without.marks) == 1 and "preview" not in without.options["kinds"]


def test_the_answer_for_an_ended_job_is_final_and_writes_nothing_to_redis(redis_server):
    api = API()
    job = make_job(owner=api.owner, status="succeeded")

    assert stream_of(api.get(path(job), **SHELLED)).is_final
    assert set(redis_server.keys("retort:*")) <= {metrics.HASH}


def test_without_a_shell_the_answer_is_a_snapshot_and_the_end_if_the_job_has_ended():
    api = API()
    queued, done = make_job(owner=api.owner), make_job(owner=api.owner, status="succeeded")
    make_image(job=done)

    (snapshot,) = parse(api.get(path(queued)).content)
    first, last = parse(api.get(path(done)).content)

    assert (snapshot.name, snapshot.json()["status"]) == ("snapshot", "queued")
    assert (first.name, last.name) == ("snapshot", "succeeded")
    assert first.json() == last.json() == api.get(f"/v1/jobs/{done.id}").json()


def test_a_client_that_has_the_last_event_is_not_to_reconnect():
    api = API()
    job = make_job(owner=api.owner, status="failed")
    last = parse(api.get(path(job)).content)[-1]

    assert api.get(path(job), headers={"Last-Event-ID": last.id}).status_code == 204
    assert api.get(path(job), {"last_event_id": last.id}).status_code == 204
    job.status, job.finished_at = "queued", None
    job.save()
    assert stream_of(api.get(path(job), {"last_event_id": last.id}, **SHELLED)).after == ""


def test_the_header_overrides_the_query_and_the_shell_uses_neither():
    api = API()
    job = make_job(owner=api.owner)
    both = {"query": {"last_event_id": "1-1"}, "headers": {"Last-Event-ID": "2-2"}}

    assert stream_of(api.get(path(job), **both, **SHELLED)).after == "2-2"
    again = {"asgi.scope": {SHELL: "GET"}}
    assert stream_of(api.get(path(job), **both, **again)).after == ""


@pytest.mark.parametrize(
    "bad",
    ["x", "1", "1-", "99999999999999999999-0", "1-1-over", "$", "1-1-end-end", "\u0661-\u0661"],
)
def test_an_invalid_event_id_is_refused(bad: str):
    api = API()
    job = make_job(owner=api.owner)

    refused = problem(api.get(path(job), {"last_event_id": bad}), 400, "invalid_request")
    assert refused["errors"][0]["parameter"] == "last_event_id"
    refused = problem(api.get(path(job), headers={"Last-Event-ID": bad}), 400, "invalid_request")
    assert refused["parameter"] == "Last-Event-ID"


def test_refusals_are_problems_whatever_the_client_accepts():
    api = API()
    other = make_job(owner=make_user(username="other"))
    accept = {"HTTP_ACCEPT": "text/event-stream"}

    problem(api.get(path(other), **accept), 404, "not_found")
    problem(api.get(path(make_job(owner=api.owner)), {"x": 1}, **accept), 400, "invalid_request")
    problem(API(scopes=["jobs:write"]).get(path(other), **accept), 403, "permission_denied")
    assert events.watched([other.id], [None, None]) == events.Watched()


def test_the_job_has_the_url_of_its_events():
    api = API()
    job = make_job(owner=api.owner)

    shown = api.get(f"/v1/jobs/{job.id}").json()

    assert shown["urls"]["events"].endswith(path(job))
    assert isinstance(parse(api.get(shown["urls"]["events"]).content)[0], Event)
