"""Event streams over HTTP, without the ASGI shell: permission, instructions for the shell, fallback without it."""

import json

import pytest

from generation.infra import events, metrics
from generation.realtime.hub import SHELL
from generation.realtime.sse import HEADER, Stream
from tests.client import API, problem
from tests.people import make_image, make_job, make_user
from tests.sse import Event, parse

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]

SHELLED = {"asgi.scope": {SHELL: ""}}


def path(job) -> str:
    return f"/v1/jobs/{job.id}/events"


def wish(answer) -> Stream:
    assert answer.status_code == 200, answer.content
    return Stream.decode(answer[HEADER])


def test_the_shell_is_asked_to_show_the_job_and_gets_it_as_it_is_read():
    api = API()
    job = make_job(owner=api.owner, status="running")

    answer = api.get(path(job), HTTP_ACCEPT="text/event-stream", **SHELLED)

    asked = wish(answer)
    assert answer["Content-Type"] == "text/event-stream"
    assert (answer["Cache-Control"], answer["X-Accel-Buffering"]) == ("no-cache", "no")
    assert json.loads(answer.content) == api.get(f"/v1/jobs/{job.id}").json()
    assert (asked.then, asked.style, asked.is_final) == (path(job), "job", False)
    assert set(asked.words) == {"event", "succeeded", "failed", "canceled"}


def test_watching_marks_the_job_and_its_id_is_one_that_the_stream_knows(redis_server):
    api = API()
    job = make_job(owner=api.owner)

    first, second = (wish(api.get(path(job), **SHELLED)) for _ in range(2))

    assert first.id == second.id == redis_server.xrange(first.key)[0][0]
    assert {0 < redis_server.ttl(mark) <= first.mark_seconds for mark in first.marks} == {True}
    assert len(first.marks) == 2
    without = wish(api.get(path(job), {"previews": "false"}, **SHELLED))
    assert len(without.marks) == 1 and "preview" not in without.options["kinds"]


def test_a_job_that_has_ended_is_the_end_and_nothing_is_written_for_it(redis_server):
    api = API()
    job = make_job(owner=api.owner, status="succeeded")

    assert wish(api.get(path(job), **SHELLED)).is_final
    assert set(redis_server.keys("retort:*")) <= {metrics.HASH}


def test_without_a_shell_the_answer_is_the_present_state_and_the_end_of_what_has_ended():
    api = API()
    queued, done = make_job(owner=api.owner), make_job(owner=api.owner, status="succeeded")
    make_image(job=done)

    (snapshot,) = parse(api.get(path(queued)).content)
    first, last = parse(api.get(path(done)).content)

    assert (snapshot.name, snapshot.json()["status"]) == ("snapshot", "queued")
    assert (first.name, last.name) == ("snapshot", "succeeded")
    assert first.json() == last.json() == api.get(f"/v1/jobs/{done.id}").json()


def test_who_has_the_last_event_is_told_to_connect_no_more():
    api = API()
    job = make_job(owner=api.owner, status="failed")
    last = parse(api.get(path(job)).content)[-1]

    assert api.get(path(job), headers={"Last-Event-ID": last.id}).status_code == 204
    assert api.get(path(job), {"last_event_id": last.id}).status_code == 204
    job.status, job.finished_at = "queued", None
    job.save()
    assert wish(api.get(path(job), {"last_event_id": last.id}, **SHELLED)).after == ""


def test_the_header_wins_over_the_address_and_the_shell_asks_without_either():
    api = API()
    job = make_job(owner=api.owner)
    both = {"query": {"last_event_id": "1-1"}, "headers": {"Last-Event-ID": "2-2"}}

    assert wish(api.get(path(job), **both, **SHELLED)).after == "2-2"
    again = {"asgi.scope": {SHELL: "GET"}}
    assert wish(api.get(path(job), **both, **again)).after == ""


@pytest.mark.parametrize(
    "bad",
    ["x", "1", "1-", "99999999999999999999-0", "1-1-over", "$", "1-1-end-end", "\u0661-\u0661"],
)
def test_an_id_that_is_none_is_refused(bad: str):
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


def test_the_address_is_on_the_job():
    api = API()
    job = make_job(owner=api.owner)

    shown = api.get(f"/v1/jobs/{job.id}").json()

    assert shown["urls"]["events"].endswith(path(job))
    assert isinstance(parse(api.get(shown["urls"]["events"]).content)[0], Event)
