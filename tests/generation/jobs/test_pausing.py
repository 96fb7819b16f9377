"""Queues of jobs that are paused, drained and resumed: by functions, API and commands."""

import io
import threading

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from generation.infra import queues
from generation.jobs import estimates, pausing
from generation.jobs import lifecycle as jobs
from generation.models import AuditEntry, Job, Queue
from generation.worker.loop import GenerationWorker
from tests import fake_worker
from tests.client import API, problem
from tests.factories import make_embedding, make_job, make_release, make_worker

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_server")]


def command(*arguments: str) -> str:
    out = io.StringIO()
    call_command("queues", *arguments, stdout=out)
    return out.getvalue()


def test_jobs_of_a_paused_queue_are_accepted_and_wait_until_it_is_resumed(redis_server):
    make_embedding(encoder_fingerprint=make_release().encoder_fingerprint)
    api = API()
    make_worker()
    paused = api.post("/v1/queues/generation/pause", {"reason": "new driver"}).json()
    assert (paused["status"], paused["paused_by"], paused["reason"]) == (
        "paused",
        api.owner.username,
        "new driver",
    )

    assert api.post("/v1/jobs", {"variant": "red-glass-vase"}).status_code == 202
    assert jobs.claim("worker-1").jobs == ()
    assert not GenerationWorker().is_work_waiting()  # so the watchdog does not end it
    assert api.get("/v1/queues/generation").json()["queued"] == 1

    redis_server.flushdb()
    assert api.post("/v1/queues/generation/resume").json()["status"] == "running"
    assert redis_server.llen("generation") == 1  # a worker is notified at once
    assert len(jobs.claim("worker-1").jobs) == 1
    actions = AuditEntry.objects.order_by("id").values_list("action", "subject", "via")
    assert list(actions)[-2:] == [
        ("queue_paused", "generation", "api"),
        ("queue_resumed", "generation", "api"),
    ]


def test_a_paused_queue_drains(redis_server):
    make_job()
    (claimed,) = jobs.claim("worker-1").jobs
    late = make_job()
    assert pausing.pause("generation", by="anna").status == "draining"
    with pytest.raises(CommandError, match="1 job still runs"):
        command("drain", "generation", "--timeout", "0")

    printed: list[str] = []

    def drain() -> None:
        try:
            printed.append(command("drain", "generation"))
        finally:
            connection.close()

    draining = threading.Thread(target=drain)
    draining.start()
    assert fake_worker.finish([claimed]) == []
    draining.join()

    assert (
        "generation: paused" in printed[0] and "by anna" in printed[0] and "1 queued" in printed[0]
    )
    assert Job.objects.get(id=late.id).status == "queued"
    assert "running" in command("resume", "generation")


def test_the_queue_of_the_teacher_can_be_paused_separately():
    reference = make_worker(name="reference-1", queue=queues.REFERENCE)
    teacher = make_job(release=make_release(name="big", kind="teacher"))
    student = make_job()
    pausing.pause(queues.REFERENCE, by="anna")

    assert jobs.claim("reference-1", queue=queues.REFERENCE).jobs == ()
    (claimed,) = jobs.claim("worker-1").jobs
    assert claimed.id == student.id
    states = {state.name: state for state in pausing.states()}
    assert (states["reference"].status, states["reference"].queued) == ("paused", 1)
    assert (states["generation"].status, states["generation"].running) == ("running", 1)

    reference.delete()  # stopped, for example for a repair
    assert jobs.claim("worker-1").jobs == ()
    assert pausing.state("reference").queued == 1
    estimates._served_by.cache_clear()
    assert "paused" in estimates.of(teacher).reason
    pausing.resume(queues.REFERENCE)
    (claimed,) = jobs.claim("worker-1").jobs
    assert claimed.id == teacher.id


def test_the_worker_of_a_resumed_queue_takes_its_jobs():
    make_worker(name="reference-1", queue=queues.REFERENCE)
    teacher = make_job(release=make_release(name="big", kind="teacher"))
    pausing.pause(queues.REFERENCE, by="anna")
    pausing.resume(queues.REFERENCE)

    assert jobs.claim("worker-1").jobs == ()
    (claimed,) = jobs.claim("reference-1", queue=queues.REFERENCE).jobs
    assert claimed.id == teacher.id


def test_pausing_twice_keeps_the_first_reason_and_resuming_twice_is_no_error():
    pausing.pause("generation", by="anna", reason="first")
    assert pausing.pause("generation", by="bob", reason="second").reason == "first"
    assert pausing.resume("generation").status == pausing.resume("generation").status == "running"
    assert AuditEntry.objects.filter(action__startswith="queue_").count() == 2


def test_an_unknown_queue_is_not_found_and_a_key_without_the_scope_is_refused():
    problem(API().post("/v1/queues/light/pause"), 404, "not_found")
    problem(API().get("/v1/queues/light"), 404, "not_found")
    key = API(scopes=["jobs:write", "jobs:read"])
    problem(key.post("/v1/queues/generation/pause"), 403, "permission_denied")
    problem(key.get("/v1/queues"), 403, "permission_denied")
    assert not Queue.objects.filter(paused_at__isnull=False).exists()


def test_the_commands_print_their_results():
    assert command("list").count("running") >= 2
    assert "generation: paused" in command("pause", "generation", "--reason", "new driver")
    assert "(new driver)" in command("list")
