"""The checker finds each violation that is planted in a small sound database, and nothing else."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connection
from django.utils import timezone
from PIL import Image as Picture

from generation.images import store
from generation.models import (
    APIKey,
    Attempt,
    Delivery,
    Image,
    Job,
    OwnerLimits,
    OwnerUsage,
    Release,
    Usage,
)
from tests.chaos import checker
from tests.chaos.checker import AT_THE_END, check
from tests.chaos.evidence import TRIGGER, Evidence, age
from tests.chaos.log import ClientLog, Seen
from tests.chaos.receiver import Tick, origin
from tests.factories import make_delivery, make_endpoint, make_image, make_job, make_key, make_user

pytestmark = pytest.mark.django_db


class Sound:
    """A valid database: a job of two images with a webhook and a quota, reported, fetched and delivered."""

    def __init__(self, media: Path) -> None:
        with connection.cursor() as cursor:
            cursor.execute(TRIGGER)
        owner = make_user(username="limited")  # further jobs of a test have another owner
        key, _ = make_key(owner=owner, images_per_day=10)
        endpoint = make_endpoint(owner=owner)
        self.job = make_job(owner=owner, api_key=key, n=2, webhook=endpoint, attempt=1)
        Attempt.objects.create(
            job=self.job, number=1, worker_name="worker-1", batch_size=2, outcome="succeeded"
        )
        today = {"day": timezone.now().date(), "images": 2}
        Usage.objects.create(api_key=key, **today)
        OwnerLimits.objects.create(owner=owner, images_per_day=10)
        OwnerUsage.objects.create(owner=owner, **today)
        self.images = [make_image(job=self.job, index=index) for index in (0, 1)]
        self.end(self.job)
        self.deliveries = [
            make_delivery(endpoint=endpoint, job=self.job, event=event, status="delivered")
            for event in ("output", "completed")
        ]
        job, hashes = str(self.job.id), tuple(image.sha256 for image in self.images)
        self.log = ClientLog(
            seen=[
                Seen("accepted", "fresh", job=job, idem="one", n=2),
                Seen("reported", "fresh", job=job, status="queued"),
                Seen("reported", "fresh", job=job, status="succeeded", sha256=hashes),
                Seen("fetched", "fresh", job=job, sha256=(hashes[0], hashes[0]), http=200),
                Seen(
                    "refused", "fresh", http=503, code="queue_full", retry_after="1", retryable=True
                ),
                Seen("refused", "limited", http=429, code="quota_exceeded"),
            ]
        )
        self.evidence = Evidence(
            query=self._query,
            media=media,
            log=self.log,
            received={str(row.id): 1 for row in self.deliveries},
            messages={str(row.id): (job, row.event) for row in self.deliveries},
            ticks=[Tick(1.0, "gen1@host"), Tick(2.0, "gen1@host"), Tick(3.0, "gen2@host")],
            active={"student": "student-1"},
        )

    def end(self, job: Job) -> None:
        """Set the statuses that a worker sets: running, succeeded."""
        rows = Job.objects.filter(pk=job.pk)
        rows.update(status="running", lease_expires_at=timezone.now() + timedelta(seconds=60))
        rows.update(status="succeeded", lease_expires_at=None, finished_at=timezone.now())

    @staticmethod
    def _query(sql: str, *parameters: object):
        with connection.cursor() as cursor:
            cursor.execute(sql, parameters or None)
            return cursor.fetchall()

    def violated(self) -> set[str]:
        return {violation.invariant for violation in check(self.evidence, AT_THE_END)}


@pytest.fixture
def sound(settings) -> Sound:
    settings.MEDIA_ROOT.mkdir(parents=True)
    return Sound(settings.MEDIA_ROOT)


def test_a_sound_database_has_no_violation(sound: Sound):
    assert check(sound.evidence, AT_THE_END) == []


# --- planted violations ---------------------------------------------------------------------------
def a_job_that_never_ended(sound: Sound) -> None:
    job = make_job()
    sound.log.add(Seen("accepted", "fresh", job=str(job.id), idem="two"))


def an_accepted_job_without_a_row(sound: Sound) -> None:
    missing = "00000000-0000-0000-0000-000000000001"
    sound.log.add(Seen("accepted", "fresh", job=missing, idem="two"))


def a_job_that_ended_twice(sound: Sound) -> None:
    rows = Job.objects.filter(pk=sound.job.pk)
    rows.update(status="queued", finished_at=None)
    sound.end(sound.job)


def an_image_too_few(sound: Sound) -> None:
    sound.images[1].delete()
    sound.log.seen = [seen for seen in sound.log.seen if seen.event != "reported"]


def an_attempt_without_a_row(sound: Sound) -> None:
    Job.objects.filter(pk=sound.job.pk).update(attempt=2)


def an_attempt_left_open(sound: Sound) -> None:
    Attempt.objects.filter(job=sound.job).update(outcome="running")


def an_attempt_that_never_ends(sound: Sound) -> None:
    job = make_job(status="running", attempt=1)
    begun = timezone.now() - timedelta(seconds=checker.OPEN_SECONDS + 60)
    Attempt.objects.create(
        job=job, number=1, worker_name="worker-1", batch_size=1, started_at=begun
    )


def a_quota_counted_twice(sound: Sound) -> None:
    Usage.objects.update(images=4)


def a_quota_exceeded(sound: Sound) -> None:
    APIKey.objects.update(images_per_day=1)


def a_persons_quota_counted_twice(sound: Sound) -> None:
    OwnerUsage.objects.update(images=4)


def device_seconds_not_counted(sound: Sound) -> None:
    Job.objects.update(device_seconds=1)


def another_release_active(sound: Sound) -> None:
    Release.objects.update(name="student-2")


def two_beats(sound: Sound) -> None:
    sound.evidence.ticks = [*sound.evidence.ticks, Tick(4.0, "gen1@host")]


def an_error_of_the_server(sound: Sound) -> None:
    sound.log.add(Seen("refused", "fresh", http=500, code="internal_error", retryable=False))


def a_refusal_without_retry_after(sound: Sound) -> None:
    sound.log.add(Seen("refused", "fresh", http=503, code="database_unavailable", retryable=True))


def a_wrong_status_reported(sound: Sound) -> None:
    sound.log.add(Seen("reported", "fresh", job=str(sound.job.id), status="failed"))


def a_wrong_hash_reported(sound: Sound) -> None:
    reported = Seen(
        "reported", "fresh", job=str(sound.job.id), status="succeeded", sha256=("a", "b")
    )
    sound.log.add(reported)


def a_file_served_truncated(sound: Sound) -> None:
    job, sha256 = str(sound.job.id), sound.images[0].sha256
    sound.log.add(Seen("fetched", "fresh", job=job, sha256=(sha256, "another"), http=200))


def a_file_truncated(sound: Sound) -> None:
    path = sound.evidence.media / sound.images[0].file
    path.write_bytes(path.read_bytes()[:10])


def a_file_missing(sound: Sound) -> None:
    (sound.evidence.media / sound.images[0].file).unlink()


def a_master_altered(sound: Sound) -> None:
    path = sound.evidence.media / sound.images[0].master
    path.write_bytes(path.read_bytes() + b" ")


def a_file_half_written(sound: Sound) -> None:
    (sound.evidence.media / "images" / ".partial-1").write_bytes(b"half")


def a_file_without_a_row(sound: Sound) -> None:
    path = sound.evidence.media / "images" / "00" / f"{'0' * 64}.png"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"of a worker that was killed before its commit")
    age(path.parent, checker.ORPHAN_SECONDS + 60)


def a_thumbnail_without_a_row(sound: Sound) -> None:
    path = sound.evidence.media / "thumbnails" / "00" / f"{'0' * 64}.webp"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"of an image that was removed")
    age(path.parent, checker.ORPHAN_SECONDS + 60)


def a_failed_job(sound: Sound) -> None:
    job = make_job(status="failed", attempt=0)
    Job.objects.filter(pk=job.pk).update(error_code="storage_failed")


def a_client_that_gave_up(sound: Sound) -> None:
    sound.log.add(Seen("gave-up", "fresh", job=str(sound.job.id)))


def two_jobs_for_one_request(sound: Sound) -> None:
    sound.log.add(Seen("accepted", "fresh", job=str(_other(sound).id), idem="one"))


def a_webhook_twice(sound: Sound) -> None:
    row = sound.deliveries[1]
    again = make_delivery(endpoint=row.endpoint, job=row.job, event=row.event, status="delivered")
    sound.evidence.received = {**sound.evidence.received, str(again.id): 1}


def a_webhook_received_under_two_ids(sound: Sound) -> None:
    about = (str(sound.job.id), "completed")
    sound.evidence.messages = {**sound.evidence.messages, "another": about}


def a_webhook_missing(sound: Sound) -> None:
    sound.deliveries[1].delete()
    sound.evidence.messages = {}


def a_webhook_never_received(sound: Sound) -> None:
    sound.evidence.received = {}


def a_webhook_given_up(sound: Sound) -> None:
    Delivery.objects.update(status="dead")


def _other(sound: Sound) -> Job:
    """Return another valid job."""
    job = make_job(attempt=0)
    Job.objects.filter(pk=job.pk).update(status="canceled", finished_at=timezone.now())
    return job


PLANTED: list[tuple[Callable[[Sound], None], Callable[..., object]]] = [
    (a_job_that_never_ended, checker.accepted_jobs_end),
    (an_accepted_job_without_a_row, checker.accepted_jobs_end),
    (a_job_that_ended_twice, checker.ends_once),
    (an_image_too_few, checker.exact_images),
    (an_attempt_without_a_row, checker.one_attempt_at_a_time),
    (an_attempt_left_open, checker.one_attempt_at_a_time),
    (an_attempt_that_never_ends, checker.attempts_are_bounded),
    (a_quota_counted_twice, checker.quotas_are_exact),
    (a_quota_exceeded, checker.quotas_are_exact),
    (a_persons_quota_counted_twice, checker.quotas_are_exact),
    (device_seconds_not_counted, checker.quotas_are_exact),
    (another_release_active, checker.releases_as_decided),
    (two_beats, checker.one_beat),
    (an_error_of_the_server, checker.refusals_are_retryable),
    (a_refusal_without_retry_after, checker.refusals_are_retryable),
    (a_wrong_status_reported, checker.responses_match_rows),
    (a_wrong_hash_reported, checker.responses_match_rows),
    (a_file_served_truncated, checker.fetched_files_match),
    (a_file_truncated, checker.files_as_promised),
    (a_file_missing, checker.files_as_promised),
    (a_master_altered, checker.files_as_promised),
    (a_file_without_a_row, checker.no_file_without_row),
    (a_thumbnail_without_a_row, checker.no_file_without_row),
    (a_file_half_written, checker.nothing_half_written),
    (a_failed_job, checker.no_job_fails),
    (a_client_that_gave_up, checker.clients_are_answered),
    (two_jobs_for_one_request, checker.one_job_per_request),
    (a_webhook_twice, checker.webhooks_once_each),
    (a_webhook_received_under_two_ids, checker.webhooks_once_each),
    (a_webhook_missing, checker.webhooks_once_each),
    (a_webhook_never_received, checker.webhooks_once_each),
    (a_webhook_given_up, checker.webhooks_once_each),
]


@pytest.mark.parametrize(("plant", "invariant"), PLANTED, ids=lambda value: value.__name__)
def test_a_planted_violation_is_found(sound: Sound, plant, invariant):
    plant(sound)
    found = sound.violated()
    if plant is an_attempt_that_never_ends:
        found -= {"accepted jobs end"}
    assert found == {invariant.__name__.replace("_", " ")}


def test_a_nightly_sweep_removes_old_files_without_a_row_and_nothing_else(sound: Sound):
    store.thumbnail(sound.images[0].master)
    a_file_without_a_row(sound)
    a_thumbnail_without_a_row(sound)
    fresh = sound.evidence.media / "images" / "01" / f"{'1' * 64}.png"
    age(sound.evidence.media, checker.ORPHAN_SECONDS + 60)
    fresh.parent.mkdir(exist_ok=True)
    fresh.write_bytes(b"its row follows")
    before = set(sound.evidence.media.rglob("*.*"))

    call_command("retention")

    assert check(sound.evidence, AT_THE_END) == []
    gone = before - set(sound.evidence.media.rglob("*.*"))
    assert {path.stem for path in gone} == {"0" * 64}


def test_pictures_of_one_seed_may_differ_by_the_tolerance_and_no_more(sound: Sound):
    other = make_job(attempt=0)
    image = make_image(job=other, color=(40, 200, 40))
    Image.objects.filter(pk=image.pk).update(key=sound.images[0].key)
    assert list(checker.same_seed_same_picture(sound.evidence))

    near = Picture.new("RGB", (other.width, other.height), (200 + checker.TOLERANCE, 40, 40))
    near.save(sound.evidence.media / image.master, "png")
    assert not list(checker.same_seed_same_picture(sound.evidence))


def test_two_running_jobs_of_one_key_are_found(sound: Sound):
    with connection.cursor() as cursor:
        cursor.execute("DROP INDEX one_running_job_per_key")
    for _ in range(2):
        make_job(status="running", key="k")
    assert [subject for subject, _ in checker.one_computation_per_key(sound.evidence)] == ["k"]


def test_a_violation_of_every_invariant_is_planted():
    planted = {invariant for _, invariant in PLANTED}
    planted |= {checker.same_seed_same_picture, checker.one_computation_per_key}
    assert planted == set(AT_THE_END)


def test_the_origin_of_a_message_is_read():
    command = 'LPUSH light {"body": "W10=", "headers": {"task": "distillation.sweep", "origin": "gen12@a.b-c"}}'
    assert origin(command) == "gen12@a.b-c"
    assert origin(command.replace('"', '\\"')) == "gen12@a.b-c"
