"""Pages of a job: progress, result, cancel, generate again."""

import re
from datetime import timedelta
from urllib.parse import parse_qsl, urlsplit

import pytest
from django.utils import timezone

from generation.api import problems
from generation.infra import notifications
from generation.models import Job, Release
from generation.page import presentation
from generation.page.presentation import Shown, duration
from tests.factories import make_image, make_job, make_release, make_worker
from tests.page_client import Person, checked, html, words

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]


@pytest.fixture
def person() -> Person:
    return Person()


@pytest.fixture
def done(person: Person) -> Job:
    now = timezone.now()
    job = make_job(
        owner=person.user,
        status="succeeded",
        n=2,
        seed=41,
        created_at=now - timedelta(seconds=3.2),
        finished_at=now,
    )
    for index in range(2):
        make_image(job=job, index=index)
    return job


# --- the page of a job ----------------------------------------------------------------------------
def test_a_job_has_a_page_with_its_pictures_and_facts(person, done):
    page = person.get(f"/jobs/{done.id}")
    assert html(page).count('<img src="/v1/images/') == 2
    for fact in (
        "seed 41",
        "seed 42",
        "student-1",
        "4 steps",
        "64x64",
        "WebP",
        "3.2 s",
        str(done.id),
    ):
        assert fact in words(page), fact
    download = re.search(r'href="([^"]+download=true)"', html(page))
    assert download and person.get(download[1])["Content-Disposition"].startswith("attachment")


def test_a_failed_job_shows_its_error_and_the_explanation(person):
    job = make_job(owner=person.user, status="failed")
    page = person.get(f"/jobs/{job.id}")
    assert "Failed. An unexpected fault occurred. Press Again;" in words(page)
    assert "internal_error It broke." in words(page)  # the cause, among the facts
    assert 'href="/v1/problems/internal_error"' in html(page)


def test_every_error_of_a_job_has_a_sentence_for_people():
    codes = {problem.code for problem in problems.known() if problem.is_of_jobs}
    assert codes and codes - set(presentation.PROBLEMS) == set()
    assert all(problems.find(code) for code in presentation.PROBLEMS)


def test_a_picture_rejected_by_the_detector_is_marked(person, done):
    done.images.filter(index=0).update(is_accepted=False, failing=["glass", "vase"])
    done.images.filter(index=1).update(is_accepted=True)
    assert words(person.get(f"/jobs/{done.id}")).count("The detector rejected it: glass, vase") == 1


def test_a_page_without_javascript_reloads_until_the_job_has_ended(person, done):
    job = make_job(owner=person.user)
    assert '<noscript><meta http-equiv="refresh" content="2"></noscript>' in html(
        person.get(f"/jobs/{job.id}")
    )
    assert "refresh" not in html(person.get(f"/jobs/{done.id}"))


# --- unfinished jobs ------------------------------------------------------------------------------
def test_a_waiting_job_shows_its_place_and_the_estimated_time(person):
    make_worker()
    make_job(owner=person.user)
    second = make_job(owner=person.user)
    part = person.get(f"/jobs/{second.id}/now", htmx=True)
    assert "Waiting · number 2 in the queue" in words(part) and "<article" not in html(part)


def test_a_running_job_shows_its_progress(person):
    job = make_job(owner=person.user, status="running")
    notifications.set_progress([job.id], 42)
    part = person.get(f"/jobs/{job.id}/now", {"was": "running"}, htmx=True)
    assert 'value="42"' in html(part) and "Generating" in words(part)
    assert 'hx-target="closest article"' in html(part)  # where the answer for the ended job goes
    assert part["HX-Retarget"] == "this"


def test_only_a_change_is_announced(person):
    job = make_job(owner=person.user, status="running")
    assert "HX-Trigger" not in person.get(f"/jobs/{job.id}/now?was=running", htmx=True)
    announced = person.get(f"/jobs/{job.id}/now?was=queued", htmx=True)["HX-Trigger"]
    assert "Generating: a red glass vase" in announced


@pytest.mark.parametrize("whole", ["true", "false"])
def test_the_card_of_a_job_that_has_ended_replaces_the_old_one(person, done, whole):
    answer = person.get(f"/jobs/{done.id}/now", {"was": "running", "whole": whole}, htmx=True)
    assert "HX-Retarget" not in answer and html(answer).startswith("<article")
    assert html(answer).count("<img src=") == 2 and "data-events" not in html(answer)
    assert ("<dl" in html(answer)) is (whole == "true")
    assert "2 pictures are ready" in answer["HX-Trigger"]


def test_the_url_of_the_state_redirects_to_the_page(person, done):
    assert person.get(f"/jobs/{done.id}/now")["Location"] == f"/jobs/{done.id}"


def test_a_job_is_canceled_with_and_without_javascript(person):
    for is_part in (True, False):
        job = make_job(owner=person.user)
        answer = person.post(f"/jobs/{job.id}/cancel", htmx=is_part)
        job.refresh_from_db()
        assert job.status == "canceled"
        if is_part:
            assert "Canceled." in words(answer) and "Cancel" not in re.findall(
                r">(\w+)</button>", html(answer)
            )
        else:
            assert answer["Location"] == f"/jobs/{job.id}"


# --- afterwards -----------------------------------------------------------------------------------
def test_again_submits_the_same_request_with_a_new_or_the_same_seed(person, done):
    form = dict(
        re.findall(
            r'<input type="hidden" name="(\w+)" value="([^"]*)">',
            html(person.get(f"/jobs/{done.id}")),
        )
    )
    del form["csrfmiddlewaretoken"]
    for extra in ({}, {"seed": "41"}):
        answer = person.post("/", {**form, **extra})
        again = Job.objects.latest("created_at")
        assert answer["Location"] == f"/jobs/{again.id}" != f"/jobs/{done.id}"
        assert (again.variant, again.n, again.release, again.width) == (
            done.variant,
            2,
            done.release,
            64,
        )
        assert (again.seed == 41) is bool(extra)


@pytest.mark.parametrize(("status", "maker"), [("retired", "student-2"), ("candidate", "old")])
def test_again_uses_the_serving_release_unless_another_was_named(person, status, maker):
    old = make_release(name="old", image_sizes=((32, 32), (64, 64)))
    done = make_job(owner=person.user, release=old, status="succeeded", is_release_named=True)
    unnamed = make_job(owner=person.user, release=old, status="succeeded")
    Release.objects.filter(pk=old.pk).update(status=status)
    new = make_release(name="student-2", image_sizes=((64, 64),))
    for job, expected in ((done, maker), (unnamed, new.name)):
        page = html(person.get(f"/jobs/{job.id}"))
        form = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page))
        del form["csrfmiddlewaretoken"]
        person.post("/", form)
        again = Job.objects.latest("created_at")
        assert (again.release.name, again.width) == (expected, 32 if expected == "old" else 64)


def test_a_picture_of_the_teacher_is_made_again_by_the_serving_teacher(person):
    make_release()  # an active student that covers everything
    old = make_release(name="teacher-1", kind="teacher")
    done = make_job(owner=person.user, release=old, status="succeeded")
    Release.objects.filter(pk=old.pk).update(status="retired")
    make_release(name="teacher-2", kind="teacher")
    page = html(person.get(f"/jobs/{done.id}"))
    form = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page))
    del form["csrfmiddlewaretoken"]
    person.post("/", form)
    assert Job.objects.latest("created_at").release.name == "teacher-2"


def test_the_parameters_can_be_changed_before_submitting_again(person, done):
    link = re.search(r'<a class="button" href="(/\?[^"]+)"', html(person.get(f"/jobs/{done.id}")))
    assert link
    assert dict(parse_qsl(urlsplit(link[1]).query))["seed"] == "41"
    page = person.get(link[1])
    assert checked(page, "variant") == [done.variant.slug] and 'value="41"' in html(page)


def test_pictures_are_deleted_permanently(person, done):
    answer = person.post(f"/jobs/{done.id}/delete")
    done.refresh_from_db()
    assert answer["Location"] == "/gallery" and done.purged_at and not done.images.exists()
    assert person.get(f"/jobs/{done.id}").status_code == 410
    assert (
        person.post(f"/jobs/{done.id}/delete").status_code == 302
    )  # a second time changes nothing
    gallery = person.get("/gallery")
    assert str(done.id) not in html(gallery) and "deleted." in words(gallery)


# --- durations and notes --------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("seconds", "short_text"),
    [
        (0.0042, "4 ms"),
        (0.5, "0.5 s"),
        (9.94, "9.9 s"),
        (10, "10 s"),
        (89, "89 s"),
        (90, "2 min"),
        (7200, "2 h"),
    ],
)
def test_durations_are_short(seconds: float, short_text: str):
    assert duration(seconds) == short_text


def test_an_answer_from_stored_images_is_marked(person, done):
    done.cache = Job.Cache.HIT
    assert Shown(done).from_cache == "Reused from an earlier job"
