"""Generation worker on a real toy release: batches, errors of one row, repeats, stopping, messages."""

import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from django.conf import settings as django_settings
from django.db import connection
from django.utils import timezone

from generation.catalogue import encoding
from generation.engine.errors import EmbeddingInvalid
from generation.images import storage
from generation.images import store as images
from generation.infra import heartbeat
from generation.infra.watchdog import EXIT_UNRESPONSIVE
from generation.jobs import completion, submission, throughput
from generation.jobs import lifecycle as jobs
from generation.jobs.job_request import JobRequest
from generation.models import Attempt, Embedding, Image, Job, Release, Worker
from generation.releases import lifecycle as releases
from generation.worker import generating, interleaving
from tests.factories import make_job, make_user, make_variant, make_worker
from tests.tiny import make_tiny_release

pytestmark = pytest.mark.django_db(transaction=True)

TEXTS = ("a red glass vase", "a blue clay bowl", "a green metal mug")


@pytest.fixture
def served(tmp_path: Path, settings, monkeypatch):
    """A toy release in service, its catalogue encoded."""
    settings.TORCH_THREADS = 1
    settings.BATCH_SIZE = 4
    make_tiny_release(tmp_path / "tiny", name="tiny", kind="student")
    release = releases.register(tmp_path / "tiny")
    releases.activate(release)
    for text in TEXTS:
        make_variant(text=text)
    assert encoding.encode_missing() == 0
    heartbeat.stopping.clear()
    yield Release.objects.get(name="tiny")
    heartbeat.stopping.clear()


def until(condition) -> None:
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.05)


def submit(text: str = TEXTS[0], **fields) -> Job:
    return submission.submit(make_user(), JobRequest(text=text, **fields))


def test_queued_jobs_are_computed_in_batches_with_files(served, settings, worker):
    submitted = [submit(text, seed=seed) for seed in (1, 2) for text in TEXTS]

    worker.run()

    assert set(Job.objects.values_list("status", flat=True)) == {"succeeded"}
    assert sorted(Attempt.objects.values_list("batch_size", flat=True)) == [2, 2, 4, 4, 4, 4]
    files = [settings.MEDIA_ROOT / image.file for image in Image.objects.all()]
    assert len(files) == len(submitted)
    assert all(file.stat().st_size > 0 for file in files)


def test_the_batch_size_follows_measured_times_and_these_are_in_the_workers_row(served, worker):
    curve = throughput.key_of(served.pk, 64, 64)
    for size, seconds in ((1, 0.1), (4, 60.0)):  # batches of four are slower than four alone
        for _ in range(throughput.TRIES):
            worker.measured.record(curve, size, seconds)
    for seed in range(3):
        submit(seed=seed)
    submit(seed=10, n=2)

    worker.run()

    assert sorted(Attempt.objects.values_list("batch_size", flat=True)) == [1, 1, 1, 2]
    heartbeat.begin("generation", device="cpu", tick=worker.tick)
    try:
        until(lambda: Worker.objects.get().batch_seconds)
    finally:
        heartbeat.end()
    assert set(worker.measured.stored()[curve]) == {"1", "2", "4"}


def test_a_worker_that_starts_has_measured_small_batches(served, worker, monkeypatch):
    monkeypatch.setattr(generating, "WARM_UP_SECONDS", float("inf"))

    generating.warm_up(worker.loaded.get(served), served, worker.measured)

    assert set(worker.measured.curve(f"{served.pk}:64x64")) == {1, 2, 4}


def test_a_job_larger_than_a_batch_is_computed_in_parts_with_consecutive_seeds(served, worker):
    job = submit(n=10, seed=100)

    worker.run()

    assert [image.seed for image in job.images.all()] == list(range(100, 110))
    assert len({image.sha256 for image in job.images.all()}) == 10


def test_a_damaged_embedding_fails_its_own_job_at_once_and_no_other(served, worker):
    damaged, good = submit(TEXTS[0], seed=1), submit(TEXTS[1], seed=1)
    row = Embedding.objects.get(id=damaged.embedding_id)
    Embedding.objects.filter(id=row.id).update(data=b"\0")

    worker.run()

    damaged.refresh_from_db()
    good.refresh_from_db()
    assert (damaged.status, damaged.error_code) == ("failed", "embedding_invalid")
    assert good.status == "succeeded"
    row.save()  # the row is repaired
    mended = submit(TEXTS[0], seed=2)
    worker.run()
    assert Job.objects.get(id=mended.id).status == "succeeded"


def test_an_embedding_that_is_encoded_again_is_used_from_the_next_job_on(served, worker):
    """A worker that runs for weeks reads the bytes again, also when a restored database reuses an id."""
    before = submit(TEXTS[0], seed=1)
    worker.run()
    other = Embedding.objects.get(text=TEXTS[1])
    Embedding.objects.filter(id=before.embedding_id).update(data=other.data, sha256=other.sha256)

    again, like = submit(TEXTS[0], seed=1), submit(TEXTS[1], seed=1)
    worker.run()

    pixels = [job.images.get().master for job in (before, again, like)]
    assert pixels[0] != pixels[1] == pixels[2]


def test_an_embedding_of_another_encoder_is_refused_and_never_used(served, worker):
    job = submit(seed=1)
    Embedding.objects.filter(id=job.embedding_id).update(encoder_fingerprint="0" * 64)

    worker.run()

    job.refresh_from_db()
    assert (job.status, job.error_code) == ("failed", "embedding_mismatch")


def test_a_crash_in_a_batch_is_attributed_to_the_job_that_causes_it(served, settings, worker):
    """A real crash: the hook raises inside the U-Net whenever the poisoned embedding is in the batch."""
    settings.MAX_ATTEMPTS = 2
    poison, good = submit(TEXTS[0], seed=1), submit(TEXTS[1], seed=1)
    loaded = worker.loaded.get(served)
    rows = loaded.embeddings.gather([poison.embedding.stored()])

    def crash(_module, _arguments, options):
        embeds = options["encoder_hidden_states"]
        if any((row == rows[0]).all() for row in embeds):
            raise ArithmeticError("poison")

    hook = loaded.runtime.unet.register_forward_pre_hook(crash, with_kwargs=True)
    try:
        for _ in range(2):
            worker.run()
            Job.objects.filter(status="queued").update(not_before=timezone.now())
    finally:
        hook.remove()

    poison.refresh_from_db()
    good.refresh_from_db()
    assert (poison.status, poison.error_code, poison.failures) == ("failed", "internal_error", 2)
    assert "poison" in poison.error_detail
    assert (good.status, good.failures) == ("succeeded", 0)


def test_an_error_of_one_job_does_not_affect_others_of_its_batch_after_a_crash(served, worker):
    poison, good = submit(TEXTS[0], seed=1), submit(TEXTS[1], seed=1)
    loaded = worker.loaded.get(served)
    row = loaded.embeddings.gather([poison.embedding.stored()])[0]

    def crash(_module, _arguments, options):
        embeds = options["encoder_hidden_states"]
        if len(embeds) > 1:
            raise ArithmeticError("the batch")
        if (embeds[0] == row).all():
            raise EmbeddingInvalid("poison")

    hook = loaded.runtime.unet.register_forward_pre_hook(crash, with_kwargs=True)
    try:
        worker.run()
    finally:
        hook.remove()

    poison.refresh_from_db()
    good.refresh_from_db()
    assert (poison.status, poison.error_code) == ("failed", "embedding_invalid")
    assert good.status == "succeeded"


def test_a_batch_whose_commit_fails_is_logged_and_its_jobs_wait_for_their_next_attempt(
    served, worker, monkeypatch, caplog
):
    def broken(*_, **__):
        raise RuntimeError("a bug in the commit")

    job = submit(seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(completion, "commit", broken)
        worker.run()

    job.refresh_from_db()
    assert (job.status, job.failures, len(worker.leases)) == ("queued", 1, 0)
    assert job.attempts.get().error_code == "internal_error"
    assert "batch_not_committed" in caplog.text and "a bug in the commit" in caplog.text


def test_a_job_whose_identical_job_ended_meanwhile_is_answered_without_the_device(served, worker):
    first = submit(seed=9)
    worker.run()
    # As if it had been inserted just before the first one's commit, which did not see it.
    twin = make_job(
        variant=first.variant, embedding=first.embedding, release=served, seed=9, key=first.key
    )

    worker.run()

    twin.refresh_from_db()
    assert (twin.status, twin.cache, twin.device_seconds) == ("succeeded", "hit", 0)
    assert twin.images.get().sha256 == first.images.get().sha256


def test_a_stopping_worker_gives_its_jobs_back_between_two_steps(served, worker):
    job = submit(seed=1)
    claimed = jobs.claim("w")
    heartbeat.stopping.set()

    worker.run_batch(claimed).result()

    job.refresh_from_db()
    assert (job.status, job.failures) == ("queued", 0)
    assert Attempt.objects.get(job=job).outcome == "released"


def test_a_job_canceled_while_it_runs_keeps_no_image(served, worker):
    job = submit(seed=1)
    claimed = jobs.claim("w")
    jobs.cancel(job.id)

    worker.run_batch(claimed).result()

    job.refresh_from_db()
    assert (job.status, job.images.count()) == ("canceled", 0)


def test_the_same_seed_gives_the_same_file_key_alone_and_in_a_batch(served, worker):
    alone = submit(seed=5)
    worker.run()
    together = [submit(text, seed=5) for text in TEXTS[1:]] + [submit(seed=4, n=2)]
    worker.run()

    assert images.keys(alone)[0] == images.keys(together[-1])[1]


@pytest.mark.slow
def test_a_worker_that_receives_no_message_while_jobs_wait_ends_itself(served):
    """A process with a heartbeat but without a consumer, like an unresponsive worker."""
    job = submit(seed=1)
    Job.objects.filter(id=job.id).update(created_at=timezone.now() - timedelta(minutes=5))
    program = (
        "import django, time; django.setup()\n"
        "from generation.worker.loop import GenerationWorker\n"
        "GenerationWorker().begin(); time.sleep(60)"
    )
    name = connection.settings_dict["NAME"]
    url = os.environ["DATABASE_URL"].rsplit("/", 1)[0] + f"/{name}"
    env = {
        **os.environ, "DATABASE_URL": url, "REDIS_URL": django_settings.REDIS_URL, "DEAF_SECONDS": "1",
        "WORKER_NAME": "deaf", "TORCH_THREADS": "1", "DJANGO_SETTINGS_MODULE": "project.settings",
        "LOG_FORMAT": "json",
    }  # fmt: skip

    done = subprocess.run(
        [sys.executable, "-c", program], env=env, cwd=django_settings.BASE_DIR, capture_output=True,
        text=True, timeout=180,
    )  # fmt: skip

    assert done.returncode == EXIT_UNRESPONSIVE, done.stderr[-2000:]
    assert "worker_receives_nothing" in done.stderr
    assert Worker.objects.get(name="deaf").release == served


def test_jobs_of_the_teacher_are_left_to_a_dedicated_worker_while_there_is_one(
    served, tmp_path, settings, monkeypatch, worker
):
    """Without one the generation workers claim them; the student's jobs never wait behind them."""
    settings.WORKER_NAME = "worker-1"
    make_tiny_release(tmp_path / "big", name="big", kind="teacher")
    releases.activate(releases.register(tmp_path / "big"))
    encoding.encode_missing()
    submit(seed=1, model="teacher")
    worker.run()
    assert Job.objects.get().status == "succeeded"

    make_worker(name="reference-1", queue="reference")
    late, quick = submit(seed=2, model="teacher"), submit(seed=2, model="student")
    Job.objects.filter(pk=late.pk).update(created_at=timezone.now() - timedelta(minutes=5))
    worker.run()
    assert Job.objects.get(pk=quick.pk).status == "succeeded"
    assert Job.objects.get(pk=late.pk).status == "queued"
    assert not worker.is_work_waiting()
    worker.queue = "reference"
    assert worker.is_work_waiting()
    assert [release.name for release in worker.read_served().releases.values()] == ["big"]
    worker.run()
    assert Job.objects.get(pk=late.pk).status == "succeeded"


def test_a_picture_of_the_student_waits_for_one_step_of_the_teacher(
    served, tmp_path, settings, worker, monkeypatch
):
    settings.WORKER_NAME = "worker-1"
    monkeypatch.setattr(interleaving, "CHECK_SHARE", float("inf"))  # these steps take milliseconds
    make_tiny_release(tmp_path / "big", name="big", kind="teacher", steps=6)
    releases.activate(releases.register(tmp_path / "big"))
    encoding.encode_missing()
    worker.tick()  # as the heartbeat does: this worker serves both kinds
    slow = submit(seed=1, model="teacher")
    submit(seed=1, model="student")
    worker.run()
    slow, again = submit(seed=2, model="teacher"), []
    unet = worker.loaded.get(slow.release).runtime.unet
    seen = []

    def step(*_) -> None:
        seen.append(list(Job.objects.filter(id__in=again).values_list("status", flat=True)))
        if len(seen) in (2, 3):  # during the second and the third step
            again.append(submit(seed=100 + len(seen), model="student").id)

    hook = unet.register_forward_pre_hook(step)
    try:
        worker.run()
    finally:
        hook.remove()

    # Generated after the step during which it was submitted. The previous one was committed, too.
    assert seen[2:] and all("queued" not in statuses for statuses in seen)
    assert set(Job.objects.values_list("status", flat=True)) == {"succeeded"}
    slow.refresh_from_db()
    quick = Job.objects.filter(id__in=again)
    assert all(job.finished_at < slow.finished_at for job in quick)
    spent = sum(job.device_seconds for job in quick)
    whole = (slow.finished_at - slow.started_at).total_seconds()
    assert (
        slow.device_seconds < whole - spent
    )  # time of the student's jobs in between is not the teacher's


# --- messages -------------------------------------------------------------------------------------
def test_one_unread_message_covers_all_jobs_until_a_worker_receives_it(
    served, worker, redis_server
):
    for seed in range(3):
        submit(seed=seed)
    assert redis_server.llen("generation") == 1

    worker.run()
    submit(seed=9)

    assert redis_server.llen("generation") == 2
    assert Job.objects.filter(status="succeeded").count() == 3


def test_a_worker_that_leaves_jobs_queued_notifies_another_one(
    served, worker, redis_server, settings
):
    settings.BATCH_SIZE = 1
    for seed in range(2):
        submit(seed=seed)
    redis_server.flushdb()

    worker.run()

    assert redis_server.llen("generation") == 1


# --- files ----------------------------------------------------------------------------------------
def test_the_encoding_time_of_its_files_is_stored_in_the_job(served, worker):
    submit(seed=1, n=4)
    submit(seed=9, n=1)

    worker.run()

    large, small = Job.objects.order_by("seed")
    assert 0 < small.encode_seconds < large.encode_seconds < 5


def test_files_contain_metadata_where_requested(served, worker):
    with_metadata, plain = submit(seed=1, metadata=True, output_format="png"), submit(seed=2)

    worker.run()

    image = with_metadata.images.get()
    assert image.has_metadata and image.file != image.master
    assert str(with_metadata.id).encode() in storage.read(image.file)
    assert b"Retort" not in storage.read(image.master) + storage.read(plain.images.get().file)


def test_files_go_to_an_object_store(served, bucket, settings, worker):
    submitted = [submit(seed=seed, n=2) for seed in (1, 5)]

    worker.run()

    assert {Job.objects.get(id=job.id).status for job in submitted} == {"succeeded"}
    lying = {found.key for found in bucket.objects.all()}
    images_made = list(Image.objects.all())
    assert lying == {
        f"pictures/{name}" for image in images_made for name in (image.file, image.master)
    }
    assert len(lying) == 8 and not settings.MEDIA_ROOT.exists()


def test_each_thread_that_writes_files_uses_one_core(worker):
    assert worker._writers.submit(torch.get_num_threads).result() == 1
