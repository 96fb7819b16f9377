"""Jobs as Replicate predictions: Replicate's six statuses, links from a base URL, pure JSON."""

import json
from datetime import timedelta

import pytest
from django.utils import timezone

from generation import errors
from generation.infra import notifications
from generation.models import Job
from generation.webhooks.predictions import as_prediction
from tests.factories import make_image, make_job

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]

BASE = "https://pictures.example/"


def shown(job: Job, event: str | None = None) -> dict:
    """Return the prediction as it is sent, through JSON."""
    return json.loads(json.dumps(as_prediction(job, base_url=BASE, event=event)))


@pytest.mark.parametrize(
    ("status", "code", "word"),
    [
        ("queued", "", "starting"),
        ("running", "", "processing"),
        ("succeeded", "", "succeeded"),
        ("failed", "internal_error", "failed"),
        ("canceled", errors.CANCELED_BY_CLIENT, "canceled"),
        ("canceled", errors.DEADLINE_WHILE_RUNNING, "canceled"),
        ("canceled", errors.DEADLINE_BEFORE_START, "aborted"),
    ],
)
def test_every_status_has_its_replicate_status(status: str, code: str, word: str):
    prediction = shown(make_job(status=status, error_code=code))

    assert (prediction["status"], prediction["phase"]) == (word, status)
    assert (prediction["completed_at"] is None) == (status in ("queued", "running"))


def test_a_succeeded_job_links_its_files_at_the_base_url():
    job = make_job(status="succeeded", n=2, device_seconds=0.25)
    images = [make_image(job=job, index=index) for index in range(2)]

    prediction = shown(job)

    for image, url in zip(images, prediction["output"], strict=True):
        assert url.startswith(f"{BASE}v1/images/{image.id}/file?expires=")
    assert prediction["urls"] == {
        "get": f"{BASE}v1/predictions/{job.id}",
        "cancel": f"{BASE}v1/predictions/{job.id}/cancel",
        "stream": f"{BASE}v1/predictions/{job.id}/stream",
    }
    assert prediction["error"] is None
    assert prediction["metrics"]["device_time"] == 0.25
    assert prediction["created_at"].endswith("Z")
    assert prediction["version"] == job.release.manifest_sha256
    assert prediction["model"] == "retort/student"


def test_the_start_event_shows_the_state_at_the_start():
    job = make_job(status="failed", attempt=1)

    prediction = shown(job, event="start")

    assert (prediction["status"], prediction["phase"]) == ("processing", "running")
    absent = ("output", "error", "error_code", "completed_at")
    assert [prediction[name] for name in absent] == [None] * 4
    assert prediction["metrics"] == {}
    assert prediction["started_at"]
    assert shown(job, event="completed")["error"] == "It broke."


def test_the_input_contains_what_repeats_the_request():
    job = make_job(seed=7, n=3, output_format="jpeg", priority=2)

    assert shown(job)["input"] == {
        "prompt": "a red glass vase on a wooden table",
        "seed": 7,
        "num_outputs": 3,
        "width": 64,
        "height": 64,
        "output_format": "jpg",
        "priority": 2,
        "metadata": False,
    }
    matched = make_job(asked_text="a vase of red glass")
    assert shown(matched)["input"]["prompt"] == "a vase of red glass"


def test_removed_files_are_marked_as_removed_and_not_linked():
    job = make_job(status="succeeded", purged_at=timezone.now())
    make_image(job=job)

    prediction = shown(job)

    assert (prediction["status"], prediction["data_removed"]) == ("succeeded", True)
    assert prediction["output"] is None


def test_pictures_that_existed_have_a_predict_time_of_zero():
    now = timezone.now()
    past = {"created_at": now - timedelta(seconds=5), "started_at": now - timedelta(seconds=2)}

    made = shown(make_job(status="succeeded", finished_at=now, **past))["metrics"]
    stored = shown(make_job(status="succeeded", finished_at=now, cache="hit", **past))["metrics"]

    assert (made["queue_time"], made["predict_time"], made["total_time"]) == (3, 2, 5)
    assert (stored["predict_time"], stored["total_time"]) == (0, 5)


def test_the_logs_contain_the_progress_of_a_job():
    queued, running = make_job(), make_job(status="running")
    notifications.set_progress([running.id], 50)

    assert shown(queued)["logs"] == ""
    assert shown(running)["logs"] == " 50%|#####     | 2/4"
    assert shown(make_job(status="succeeded"))["logs"] == "100%|##########| 4/4"


def test_a_prediction_has_the_id_that_its_client_chose():
    job = make_job(external_id="my-vase-1")

    prediction = shown(job)

    assert (prediction["id"], prediction["job"]) == ("my-vase-1", str(job.id))
    assert prediction["urls"]["get"] == f"{BASE}v1/predictions/my-vase-1"
