"""Faults of storage, releases, device and database: they fail no job, and the worker continues afterwards."""

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import torch
from django.db import OperationalError, connection
from django.utils import timezone

from generation.catalogue import encoding
from generation.engine import release as release_format
from generation.engine.errors import NotFinite
from generation.engine.request import GenerationResult
from generation.infra import heartbeat
from generation.infra.stalls import EXIT_STALLED, TIMES_UNKNOWN, unknown_bound
from generation.jobs import claiming, completion, stock
from generation.jobs import lifecycle as jobs
from generation.jobs.lifecycle import Claim
from generation.models import Attempt, Job, Release, Worker
from generation.releases import lifecycle as releases
from generation.worker import health, interleaving, pipelines, writing
from generation.worker.loop import EXIT_DEVICE, GenerationWorker
from tests.factories import make_job, make_worker
from tests.generation.worker.test_loop import TEXTS, served, submit  # noqa: F401
from tests.tiny import make_tiny_release

pytestmark = pytest.mark.django_db(transaction=True)


class Ended(Exception):
    """Raised instead of ending the process."""


@pytest.fixture
def exit_codes() -> list[int]:
    """The exit codes with which the worker ended."""
    return []


@pytest.fixture
def worker(db, settings, exit_codes) -> Iterator[Any]:
    """A worker without a heartbeat, whose row exists; `run` serves all queued jobs until its process would end."""
    settings.WORKER_NAME = "worker-1"
    make_worker(name="worker-1")
    heartbeat.stopping.clear()

    class InThisProcess(GenerationWorker):
        def run(self) -> None:
            try:
                self.serve()
                self.finish()
            except Ended:
                pass

    def end(code: int) -> None:
        exit_codes.append(code)
        if threading.current_thread().name not in ("stalls", "probe"):
            raise Ended

    found = InThisProcess(exit_process=end)
    yield found
    found.end()
    heartbeat.stopping.clear()


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def after_the_pauses() -> None:
    """End the pauses between attempts."""
    Job.objects.filter(not_before__isnull=False).update(
        not_before=timezone.now() - timedelta(hours=1)
    )


def ticks(worker: GenerationWorker) -> bool:
    worker.tick()
    return worker.health.is_good


def assert_only_a_fault_of_the_storage() -> None:
    """Assert that a few attempts ended as a fault of the storage, which no job counts as a failure."""
    assert Attempt.objects.count() <= 3  # those in progress, not the whole queue
    assert set(Attempt.objects.values_list("outcome", "error_class", "error_code")) == {
        ("released", "infrastructure", "storage_failed")
    }
    assert set(Job.objects.values_list("status", "failures")) == {("queued", 0)}
    assert Worker.objects.get().fault == "storage_failed"


# --- storage --------------------------------------------------------------------------------------
def test_a_failing_storage_fails_no_job_and_stops_the_claims(served, settings, worker):  # noqa: F811
    settings.BATCH_SIZE = 1
    settings.MEDIA_ROOT.parent.mkdir(parents=True, exist_ok=True)
    settings.MEDIA_ROOT.write_text("in the way")
    for seed in range(20):
        submit(seed=seed)

    worker.run()
    worker.tick()

    assert_only_a_fault_of_the_storage()
    row = Worker.objects.get()
    assert "DATA_DIR" in row.fault_detail and row.faulty_since
    assert not worker.is_work_waiting()

    settings.MEDIA_ROOT.unlink()
    until(lambda: ticks(worker))
    after_the_pauses()
    worker.run()
    worker.tick()

    assert set(Job.objects.values_list("status", flat=True)) == {"succeeded"}
    assert Worker.objects.values_list("fault", "faulty_since").get() == ("", None)


def test_a_disk_that_cannot_sync_fails_no_job_and_stops_the_claims(
    served,  # noqa: F811
    settings,
    worker,
    monkeypatch,
):
    settings.BATCH_SIZE = 1
    refused: list[int] = []

    def refuse(handle: int) -> None:
        refused.append(handle)
        if len(refused) > 40:  # enough for all jobs: end a worker that would go on
            heartbeat.stopping.set()
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    for seed in range(10):
        submit(seed=seed)

    worker.run()
    worker.tick()

    assert_only_a_fault_of_the_storage()


def test_a_worker_waits_for_an_unreachable_object_store(served, settings, monkeypatch, worker):  # noqa: F811
    from project.settings.storage import object_store

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    away = object_store("somewhere", endpoint_url="http://127.0.0.1:1", region="us-east-1")
    here = settings.STORAGES
    settings.STORAGES = {**here, "default": away}
    job = submit()

    worker.run()

    job.refresh_from_db()
    assert (job.status, job.failures, worker.health.is_good) == ("queued", 0, False)
    settings.STORAGES = here
    until(lambda: ticks(worker))
    after_the_pauses()
    worker.run()
    assert Job.objects.get().status == "succeeded"


def test_a_storage_that_fails_for_repeats_fails_none_of_them(served, settings, worker, monkeypatch):  # noqa: F811
    """Files of existing images are checked before anything is generated."""
    first = submit(seed=1)
    worker.run()
    claimed = Job.objects.get(id=first.id)
    make_job(
        variant=claimed.variant, embedding=claimed.embedding, release=served, key=claimed.key,
        seed=1,
    )  # fmt: skip
    media = settings.MEDIA_ROOT
    (media / "images").rename(media / "aside")
    (media / "images").symlink_to(media / "images")  # ELOOP for every file

    worker.run()

    twin = Job.objects.exclude(id=first.id).get()
    assert (twin.status, twin.failures, worker.health.is_good) == ("queued", 0, False)


# --- releases -------------------------------------------------------------------------------------
def test_jobs_of_a_release_that_this_host_cannot_read_wait_and_the_others_continue(
    served,  # noqa: F811
    tmp_path,
    worker,
):
    make_tiny_release(tmp_path / "other", name="other", kind="student")
    other = releases.register(tmp_path / "other")
    shutil.move(other.path, f"{other.path}.away")
    waiting, good = submit(model="other", seed=1), submit(seed=2)

    worker.run()
    after_the_pauses()
    worker.run()

    waiting.refresh_from_db()
    good.refresh_from_db()
    assert (waiting.status, waiting.failures, waiting.attempt) == ("queued", 0, 1)
    assert good.status == "succeeded"
    assert waiting.attempts.get().error_code == "release_invalid"
    worker.tick()
    assert Worker.objects.get().fault == ""  # the release is not in service

    shutil.move(f"{other.path}.away", other.path)
    worker.loaded._failing.clear()  # as if its pause were over
    worker.run()
    waiting.refresh_from_db()
    assert waiting.status == "succeeded"


def test_a_worker_that_cannot_read_the_active_release_reports_a_fault_until_it_can(
    served,  # noqa: F811
    worker,
    monkeypatch,
):
    monkeypatch.setattr(pipelines, "FIRST_PAUSE_SECONDS", 0.5)
    folder = Path(served.path)
    shutil.move(folder, f"{folder}.away")
    job = submit(seed=1)
    worker.run()
    worker.tick()
    assert Worker.objects.get().fault == "release_invalid"

    shutil.move(f"{folder}.away", folder)

    def is_well() -> bool:
        worker.tick()  # it retries without a job
        return Worker.objects.get().fault == ""

    until(is_well)
    after_the_pauses()
    worker.run()
    job.refresh_from_db()
    assert (job.status, job.failures) == ("succeeded", 0)


# --- device ---------------------------------------------------------------------------------------
def break_device(worker: GenerationWorker, release: Release, error: Exception) -> None:
    """Make every image fail from now on, as after a CUDA error, which is sticky."""
    loaded = worker.loaded.get(release)

    def generate(*_: object, **__: object) -> None:
        raise error

    loaded.generate = generate


STICKY = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


@pytest.mark.parametrize("error", [STICKY, RuntimeError("device lost"), OSError("driver")])
def test_a_worker_with_a_broken_device_gives_its_jobs_back_and_ends(
    served,  # noqa: F811
    worker,
    exit_codes,
    error,
):
    submitted = [submit(text, seed=1) for text in TEXTS]
    break_device(worker, served, error)

    worker.run()

    assert exit_codes == [EXIT_DEVICE]
    assert set(Job.objects.values_list("status", "failures")) == {("queued", 0)}
    assert Attempt.objects.filter(error_class="infrastructure").count() == len(submitted)
    assert Worker.objects.get().fault == "device_unavailable"


def test_a_device_that_breaks_between_the_steps_of_a_teacher_gives_all_jobs_back(
    served,  # noqa: F811
    tmp_path,
    worker,
    exit_codes,
    monkeypatch,
):
    monkeypatch.setattr(interleaving, "CHECK_SHARE", float("inf"))  # these steps take milliseconds
    make_tiny_release(tmp_path / "big", name="big", kind="teacher")
    teacher = releases.register(tmp_path / "big")
    releases.activate(teacher)
    assert encoding.encode_missing() == 0
    worker.tick()
    worker.loaded.get(served)
    unet = worker.loaded.get(teacher).runtime.unet
    submit(seed=1, model="teacher")

    def step(*_: object) -> None:
        if Job.objects.count() == 1:
            submit(seed=1, model="student")
            for release in (served, teacher):
                break_device(worker, release, STICKY)

    unet.register_forward_pre_hook(step)
    worker.run()

    assert EXIT_DEVICE in exit_codes
    assert set(Job.objects.values_list("status", "failures")) == {("queued", 0)}
    assert Attempt.objects.filter(error_class="infrastructure").count() == 2


def test_a_database_that_fails_between_the_steps_of_a_teacher_loses_no_picture(
    served,  # noqa: F811
    tmp_path,
    settings,
    worker,
    exit_codes,
    monkeypatch,
):
    monkeypatch.setattr(interleaving, "CHECK_SHARE", float("inf"))  # these steps take milliseconds
    settings.BATCH_SIZE = 8
    make_tiny_release(tmp_path / "big", name="big", kind="teacher", steps=3)
    teacher = releases.register(tmp_path / "big")
    releases.activate(teacher)
    assert encoding.encode_missing() == 0
    worker.tick()
    worker.loaded.get(served)
    unet = worker.loaded.get(teacher).runtime.unet
    for seed in range(6):
        submit(seed=seed, model="teacher")
    other = psycopg2.connect(**connection.get_connection_params())
    other.autocommit = True
    broken: list[int] = []

    def step(*_: object) -> None:
        if not broken:
            broken.append(connection.connection.info.backend_pid)
            with other.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(%s, 5000)", broken)

    unet.register_forward_pre_hook(step)
    worker.run()
    other.close()

    assert broken and exit_codes == []
    assert set(Job.objects.values_list("status", "attempt")) == {("succeeded", 1)}


def test_a_long_outage_between_the_steps_of_a_teacher_is_no_stall(
    served,  # noqa: F811
    tmp_path,
    worker,
    exit_codes,
    monkeypatch,
):
    monkeypatch.setattr(interleaving, "CHECK_SHARE", float("inf"))  # these steps take milliseconds
    monkeypatch.setattr(writing, "PAUSE_SECONDS", (0.001, 0.001))
    make_tiny_release(tmp_path / "big", name="big", kind="teacher", steps=3)
    teacher = releases.register(tmp_path / "big")
    releases.activate(teacher)
    assert encoding.encode_missing() == 0
    worker.tick()
    worker.loaded.get(served)
    unet = worker.loaded.get(teacher).runtime.unet
    submit(seed=1, model="teacher")
    claim, stalled = jobs.claim, []

    def step(*_: object) -> None:
        if Job.objects.count() == 1:
            submit(seed=1, model="student")

    def away_at_first(*arguments, **options):
        if options["only"] and len(stalled) < 3:
            stalled.append(worker.watch.check(0.9 * unknown_bound()))
            raise OperationalError("connection refused")
        return claim(*arguments, **options)

    monkeypatch.setattr(jobs, "claim", away_at_first)
    unet.register_forward_pre_hook(step)
    worker.run()

    assert stalled == [None] * 3 and exit_codes == []
    assert set(Job.objects.values_list("status", "attempt")) == {("succeeded", 1)}


def test_a_long_outage_while_identical_jobs_are_answered_is_no_stall(served, worker, monkeypatch):  # noqa: F811
    monkeypatch.setattr(writing, "PAUSE_SECONDS", (0.001, 0.001))
    first = submit(seed=1)
    make_job(
        variant=first.variant, embedding=first.embedding, release=served, key=first.key, seed=1
    )
    answer, stalled = completion.answer_identical, []

    def away_at_first(*arguments, **options):
        if len(stalled) < 3:
            stalled.append(worker.watch.check(0.9 * unknown_bound()))
            raise OperationalError("connection refused")
        return answer(*arguments, **options)

    monkeypatch.setattr(completion, "answer_identical", away_at_first)
    worker.run()

    assert stalled == [None] * 3
    assert set(Job.objects.values_list("status", flat=True)) == {"succeeded"}


def test_a_device_that_breaks_while_filling_the_stock_loses_no_finished_image(
    served,  # noqa: F811
    settings,
    worker,
    exit_codes,
):
    settings.STOCK = 1
    worker.tick()
    for seed in range(stock.OFTEN):
        submit(seed=seed)
    other = psycopg2.connect(**connection.get_connection_params())
    loaded = worker.loaded.get(served)
    generate = loaded.generate

    def break_after_this_batch(*given: Any, **options: Any) -> Any:
        results = generate(*given, **options)
        with other.cursor() as cursor:  # its commit takes long
            cursor.execute("SELECT 1 FROM generation_job FOR UPDATE")
        threading.Timer(1, other.close).start()
        break_device(worker, served, STICKY)
        return results

    loaded.generate = break_after_this_batch
    worker.run()

    assert exit_codes == [EXIT_DEVICE]
    assert set(Job.objects.values_list("status", flat=True)) == {"succeeded"}


def test_a_device_that_computes_wrong_results_is_broken_too(served, worker, exit_codes):  # noqa: F811
    job = submit(seed=1)
    loaded = worker.loaded.get(served)
    loaded.generate = lambda requests, **_: [
        GenerationResult(request, None, NotFinite()) for request in requests
    ]

    worker.run()

    job.refresh_from_db()
    assert (job.status, job.failures, exit_codes) == ("queued", 0, [EXIT_DEVICE])


def test_an_image_that_is_not_finite_on_a_good_device_fails_its_job_at_once(
    served,  # noqa: F811
    worker,
    exit_codes,
):
    poison, good = submit(TEXTS[0], seed=1), submit(TEXTS[1], seed=1)
    loaded, bad = worker.loaded.get(served), poison.embedding.stored()
    generate = loaded.generate

    def not_finite_for_one(requests, **options):
        results = generate(requests, **options)
        return [
            GenerationResult(result.request, None, NotFinite())
            if result.request.embedding.sha256 == bad.sha256
            else result
            for result in results
        ]

    loaded.generate = not_finite_for_one
    worker.run()

    poison.refresh_from_db()
    good.refresh_from_db()
    assert (poison.status, poison.error_code) == ("failed", "not_finite")
    assert (good.status, exit_codes) == ("succeeded", [])


def test_a_worker_whose_jobs_all_crash_ends(served, settings, worker, exit_codes):  # noqa: F811
    """The test image works, but no job does: after some jobs the worker counts as faulty."""
    settings.BATCH_SIZE = 1
    loaded = worker.loaded.get(served)
    generate = loaded.generate

    def crash(requests, **options):
        if any(any(request.embedding.data) for request in requests):
            raise ArithmeticError("every job")
        return generate(requests, **options)

    loaded.generate = crash
    for seed in range(20):
        submit(seed=seed)

    worker.run()

    assert exit_codes == [EXIT_DEVICE]
    assert Job.objects.filter(failures__gt=0).count() < 6
    assert not Job.objects.filter(status="failed").exists()


def test_a_job_that_breaks_devices_fails_eventually(served, settings, worker, exit_codes):  # noqa: F811
    """The first time does not count, because the device may be the cause."""
    settings.MAX_ATTEMPTS = 2
    job = submit(seed=1)
    break_device(worker, served, STICKY)
    for _ in range(3):
        after_the_pauses()
        worker.run()

    job.refresh_from_db()
    assert (job.status, job.error_code, job.attempt) == ("failed", "device_unavailable", 3)
    assert len(exit_codes) == 3


def test_a_worker_whose_device_is_broken_at_its_start_takes_no_job(
    served,  # noqa: F811
    worker,
    exit_codes,
    monkeypatch,
):
    monkeypatch.setattr(health, "PAUSES_SECONDS", (0.1,))
    job = submit(seed=1)
    break_device(worker, served, STICKY)
    worker.begin()
    try:
        until(lambda: Worker.objects.get().fault == "device_unavailable")
        worker.run()
        job.refresh_from_db()
        assert (job.status, job.attempt) == ("queued", 0)
        until(
            lambda: exit_codes == [EXIT_DEVICE]
        )  # after some probes the process ends, to be restarted
    finally:
        heartbeat.end()


def test_a_release_that_makes_no_image_does_not_stop_workers_from_serving_others(
    served,  # noqa: F811
    tmp_path,
    worker,
):
    make_tiny_release(tmp_path / "odd", name="odd", kind="student")
    manifest = release_format.read(tmp_path / "odd")
    tokens, width = manifest.embedding_shape
    release_format.write(tmp_path / "odd", replace(manifest, embedding_shape=(tokens, width + 1)))
    make_tiny_release(tmp_path / "big", name="big", kind="teacher")
    for name in ("odd", "big"):
        releases.activate(releases.register(tmp_path / name))
    job = submit(seed=1, model="teacher")
    worker.begin()
    try:
        worker.run()
        job.refresh_from_db()
        assert job.status == "succeeded"
    finally:
        heartbeat.end()


# --- hanging calls --------------------------------------------------------------------------------
def test_a_device_that_hangs_gives_its_jobs_back_and_ends_the_process(
    served,  # noqa: F811
    settings,
    worker,
    exit_codes,
):
    job = submit(seed=1)
    loaded, released = worker.loaded.get(served), threading.Event()
    generate = loaded.generate

    def hang(*arguments, **options):
        released.wait(60)
        return generate(*arguments, **options)

    loaded.generate = hang
    settings.STALL_SECONDS = 0.5 / TIMES_UNKNOWN
    worker.watch.begin()
    running = threading.Thread(target=worker.run)
    running.start()
    until(lambda: exit_codes == [EXIT_STALLED])

    job.refresh_from_db()
    assert (job.status, job.failures) == ("queued", 0)
    attempt = job.attempts.get()
    assert (attempt.error_class, attempt.error_code) == ("infrastructure", "device_unavailable")
    assert "No progress" in attempt.error_detail
    released.set()
    running.join()
    assert Job.objects.get().status == "queued"  # the late result is refused


def test_a_storage_that_hangs_gives_its_jobs_back_and_ends_the_process(
    served,  # noqa: F811
    settings,
    worker,
    exit_codes,
    monkeypatch,
):
    job = submit(seed=1)
    released = threading.Event()
    monkeypatch.setattr(writing.images, "store", lambda *_, **__: released.wait(60))
    worker.loaded.get(served)
    settings.STALL_SECONDS = 0.5
    worker.watch.begin()
    running = threading.Thread(target=worker.run)
    running.start()
    until(lambda: exit_codes == [EXIT_STALLED])

    job.refresh_from_db()
    assert (job.status, job.failures) == ("queued", 0)
    assert job.attempts.get().error_code == "storage_failed"
    assert (
        Worker.objects.get().fault == "storage_failed"
    )  # so that its next process probes before it claims
    released.set()
    running.join()


def test_a_disk_that_hangs_while_it_syncs_gives_the_jobs_back_and_ends_the_process(
    served,  # noqa: F811
    settings,
    worker,
    exit_codes,
    monkeypatch,
):
    job = submit(seed=1)
    released = threading.Event()
    monkeypatch.setattr(os, "fsync", lambda _: released.wait(60))
    worker.loaded.get(served)
    settings.STALL_SECONDS = 3
    worker.watch.begin()
    running = threading.Thread(target=worker.run)
    running.start()
    try:
        until(lambda: exit_codes == [EXIT_STALLED], seconds=30)
        job.refresh_from_db()
        assert (job.status, job.failures) == ("queued", 0)
        assert job.attempts.get().error_code == "storage_failed"
    finally:
        released.set()
        running.join()
    assert Job.objects.get().status == "queued"  # the late result is refused


def test_each_step_counts_as_progress_however_long_all_of_them_take(served, worker):  # noqa: F811
    job = submit(seed=1)
    stalled = []

    def almost_too_long(*_: object) -> None:
        stalled.append(worker.watch.check(0.9 * unknown_bound()))

    hook = worker.loaded.get(served).runtime.unet.register_forward_pre_hook(almost_too_long)
    try:
        worker.run()
    finally:
        hook.remove()

    job.refresh_from_db()
    assert job.status == "succeeded"
    assert stalled == [None] * served.num_inference_steps and len(stalled) > 1


def test_a_suspended_activity_does_not_count_and_one_that_is_begun_meanwhile_does(worker):
    with worker.watch.watching("device", "step", 10.0) as teacher:
        with worker.watch.suspended(), worker.watch.watching("device", "step", 10.0) as student:
            assert worker.watch.check(11.0) is student
        assert teacher.idle_seconds == 0
        assert worker.watch.check(11.0) is teacher


def test_a_process_that_was_frozen_has_not_stalled(worker):
    with worker.watch.watching("device", "step", 10.0) as activity:
        for _ in range(3):
            assert worker.watch.check(1.0) is None
        assert activity.idle_seconds == 3.0
        activity.moved()
        assert activity.idle_seconds == 0


# --- another worker -------------------------------------------------------------------------------
def test_a_failed_job_is_left_to_another_worker_while_one_is_healthy(served, settings):  # noqa: F811
    job = submit(seed=1)
    make_worker(name="worker-1")
    peer = make_worker(name="worker-2")
    (claimed,) = jobs.claim("worker-1").jobs
    jobs.settle(Claim.of(claimed), jobs.Outcome.FAILED, writing.Failure("internal_error", "x"))
    assert jobs.claim("worker-2").jobs == ()  # its pause is not over yet
    Job.objects.update(not_before=timezone.now())

    assert jobs.claim("worker-1").jobs == ()
    Worker.objects.filter(pk=peer.pk).update(fault="storage_failed")
    Job.objects.filter(pk=job.pk).update(priority=1)
    assert len(jobs.claim("worker-1").jobs) == 1


def test_a_failed_job_is_not_left_to_another_worker_for_ever(served):  # noqa: F811
    submit(seed=1)
    make_worker(name="worker-1")
    make_worker(name="worker-2")
    (claimed,) = jobs.claim("worker-1").jobs
    jobs.settle(Claim.of(claimed), jobs.Outcome.FAILED, writing.Failure("internal_error", "x"))
    Job.objects.update(not_before=timezone.now() - timedelta(seconds=claiming.PEER_SECONDS + 1))

    assert len(jobs.claim("worker-1").jobs) == 1


# --- database -------------------------------------------------------------------------------------
def test_a_claim_whose_commit_was_not_acknowledged_leaves_no_orphan(served, worker, monkeypatch):  # noqa: F811
    submitted = [submit(seed=seed) for seed in range(3)]
    claim, calls = jobs.claim, []

    def unacknowledged(*arguments, **options):
        claimed = claim(*arguments, **options)
        if not calls:
            calls.append(claimed)
            raise OperationalError("server closed the connection unexpectedly")
        return claimed

    monkeypatch.setattr(jobs, "claim", unacknowledged)
    worker.run()

    assert len(calls[0].jobs) == 3
    assert {Job.objects.get(id=job.id).status for job in submitted} == {"succeeded"}
    assert set(Job.objects.values_list("failures", flat=True)) == {0}
    assert Attempt.objects.filter(outcome="released").count() == 3


def test_a_long_outage_of_the_database_loses_no_finished_image(served, worker, monkeypatch):  # noqa: F811
    job = submit(seed=1)
    monkeypatch.setattr(writing, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(writing, "PAUSE_SECONDS", (0.001, 0.001))
    commit, calls = completion.commit, []

    def away_at_first(*arguments, **options):
        calls.append(True)
        if len(calls) < 20:
            raise OperationalError("connection refused")
        return commit(*arguments, **options)

    monkeypatch.setattr(completion, "commit", away_at_first)
    worker.run()

    job.refresh_from_db()
    assert (job.status, job.attempt, len(calls)) == ("succeeded", 1, 20)


@pytest.mark.parametrize(
    ("sqlstate", "is_away"), [("25006", True), ("57P01", True), ("53100", True), ("40P01", False)]
)
def test_errors_that_mean_an_unreachable_postgresql_are_recognised(sqlstate, is_away):
    with pytest.raises(Exception) as caught, connection.cursor() as cursor:
        cursor.execute(f"DO $$ BEGIN RAISE SQLSTATE '{sqlstate}'; END $$")
    assert writing.is_away(caught.value) is is_away


def test_a_worker_that_cannot_load_one_release_still_counts_for_the_others(served):  # noqa: F811
    worker = make_worker()
    Worker.objects.filter(pk=worker.pk).update(fault="release_invalid")
    assert heartbeat.is_served("generation")
    for fault in ("storage_failed", "device_unavailable"):
        Worker.objects.filter(pk=worker.pk).update(fault=fault)
        assert not heartbeat.is_served("generation")


def test_after_the_end_of_the_main_thread_no_lease_is_renewed(served, worker):  # noqa: F811
    submit(seed=1)
    loaded = worker.loaded.get(served)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    loaded.generate = interrupted
    with pytest.raises(KeyboardInterrupt):
        worker.run()
    assert len(worker.leases) == 0
