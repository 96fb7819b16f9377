"""Matching of texts in the web process: a real Redis, and a thread as the encode worker."""

import threading
import time

import pytest
import redis

from generation.catalogue import match_requests, matching
from generation.catalogue.match_requests import Answer, Near
from generation.errors import EncoderBusy, EncoderUnavailable, PromptInvalid, VariantNotFound
from generation.infra import redis_client
from generation.jobs import submission
from generation.jobs.job_request import JobRequest
from generation.models import Job, PromptVariant, Release
from tests.client import API, problem
from tests.factories import (
    ENCODER,
    make_embedding,
    make_release,
    make_user,
    make_variant,
    make_worker,
)
from tests.generation.encoders import EncodeThread
from tests.web import free_port

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]

TEXT = "  The RED vase  on a table "
NORMALIZED = "the red vase on a table"


@pytest.fixture
def variants() -> list[PromptVariant]:
    """Four encoded variants, a teacher with its text encoder, a live encode worker."""
    make_release(name="teacher-1", kind=Release.Kind.TEACHER, has_encoder=True)
    make_worker(name="encode", queue="encode")
    texts = ("a red vase on a table", "a red bowl on a table", "a blue vase", "a green cube")
    found = [make_variant(text=text) for text in texts]
    for variant in found:
        make_embedding(variant=variant)
    return found


def near(variants: list[PromptVariant], *scores: float, objection: str = "") -> dict[str, Answer]:
    found = [
        Near(variant.pk, score, objection) for variant, score in zip(variants, scores, strict=False)
    ]
    return {NORMALIZED: Answer(tuple(found))}


# --- found ----------------------------------------------------------------------------------------
def test_a_text_of_the_catalogue_is_found_without_the_encode_worker(variants):
    with EncodeThread() as worker:
        found = matching.find("A red  VASE on a table")
    assert (found.variant, found.asked, found.score) == (variants[0], "", None)
    assert worker.asked == []


def test_another_text_gets_the_nearest_variant_with_its_score(variants):
    with EncodeThread(near(variants, 0.99, 0.8, 0.7)) as worker:
        found = matching.find(TEXT)
    assert (found.variant, found.asked, found.score) == (
        variants[0],
        "The RED vase on a table",
        0.99,
    )
    (question,) = worker.asked
    assert (question.text, question.encoder_fingerprint) == (NORMALIZED, ENCODER)


def test_the_job_has_the_requested_text_and_the_score(variants):
    with EncodeThread(near(variants, 0.99)):
        job = submission.submit(make_user(), JobRequest(text=TEXT, seed=1))
    own = submission.submit(make_user(), JobRequest(text="a red vase on a table", seed=1))
    assert (job.asked_text, job.match_score) == ("The RED vase on a table", 0.99)
    assert (own.asked_text, own.match_score) == ("", None)
    assert job.key == own.key  # the same pictures


# --- not found ------------------------------------------------------------------------------------
def test_a_text_that_is_not_near_enough_is_refused_with_the_three_nearest(variants, settings):
    settings.MATCH_THRESHOLD = 0.9
    with (
        EncodeThread(near(variants, 0.89, 0.8, 0.7)),
        pytest.raises(
            VariantNotFound, match=r"most similar is “a red vase on a table” \(0.89\)"
        ) as error,
    ):
        matching.find(TEXT)
    assert error.value.members["nearest"] == [
        {"variant": variant.slug, "text": variant.text, "score": score}
        for variant, score in zip(variants[:3], (0.89, 0.8, 0.7), strict=True)
    ]


def test_an_objection_refuses_a_match_at_any_score(variants):
    with (
        EncodeThread(
            near(variants, 0.999, objection="only one of the two texts has the word “not”")
        ),
        pytest.raises(VariantNotFound, match="only one of the two texts has the word “not”"),
    ):
        matching.find(TEXT)


def test_a_variant_that_was_archived_meanwhile_is_neither_matched_nor_suggested(variants):
    PromptVariant.objects.filter(pk=variants[0].pk).update(status="archived")
    with EncodeThread(near(variants, 0.99, 0.8)), pytest.raises(VariantNotFound) as error:
        matching.find(TEXT)
    assert [one["variant"] for one in error.value.members["nearest"]] == [variants[1].slug]


def test_a_catalogue_without_embeddings_is_an_error(variants):
    with (
        EncodeThread({NORMALIZED: Answer()}),
        pytest.raises(VariantNotFound, match="no variant is encoded"),
    ):
        matching.find(TEXT)


@pytest.mark.parametrize("off", ["threshold", "request"])
def test_matching_can_be_switched_off_by_setting_and_by_request(variants, settings, off):
    settings.MATCH_THRESHOLD = 1 if off == "threshold" else 0.5
    with EncodeThread(near(variants, 1)) as worker, pytest.raises(VariantNotFound) as error:
        matching.find(TEXT, exactly=off == "request")
    assert worker.asked == [] and error.value.members == {}


def test_the_text_of_an_archived_variant_is_not_matched_to_another(variants):
    make_variant(slug="old", text=NORMALIZED, status="archived")
    with (
        EncodeThread(near(variants, 0.99)) as worker,
        pytest.raises(VariantNotFound, match="archived, not active"),
    ):
        matching.find(TEXT)
    assert worker.asked == []


def test_without_a_text_encoder_only_texts_of_the_catalogue_are_accepted(variants):
    Release.objects.update(has_encoder=False)
    with pytest.raises(VariantNotFound, match="no text encoder"):
        matching.find(TEXT)
    assert matching.find("a blue vase").variant == variants[2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        (" \t ", "is empty"),
        ("vase " * 13, "13 words"),
        ("x" * 301, "301 characters"),
        ("a \0 vase", "control character"),
    ],
)
def test_an_invalid_text_is_refused_without_the_encode_worker(variants, text, words):
    with EncodeThread() as worker, pytest.raises(PromptInvalid, match=words):
        matching.find(text)
    assert worker.asked == []


def test_the_teachers_encoder_is_preferred_to_another_students(variants):
    make_release(name="student-2", encoder_fingerprint="f" * 64, has_encoder=True)
    with EncodeThread(near(variants, 0.99)) as worker:
        matching.find(TEXT)
    assert [question.encoder_fingerprint for question in worker.asked] == [ENCODER]


# --- cached answers -------------------------------------------------------------------------------
@pytest.mark.parametrize("score", [0.99, 0.2])
def test_an_answer_is_cached_whether_it_was_a_match_or_not(variants, score, settings):
    with EncodeThread(near(variants, score)) as worker:
        for spelling in (TEXT, NORMALIZED.upper()):
            try:
                matching.find(spelling)
            except VariantNotFound:
                assert score == 0.2
    assert len(worker.asked) == 1
    settings.MATCH_THRESHOLD = 0.1  # the scores are cached, not the decision
    assert matching.find(TEXT).score == score


@pytest.mark.parametrize("change", ["added", "archived", "reworded"])
def test_a_changed_catalogue_invalidates_cached_answers(variants, change):
    with EncodeThread(near(variants, 0.99)) as worker:
        matching.find(TEXT)
        if change == "added":
            make_embedding(variant=make_variant(text="a white ring"))
        elif change == "archived":
            PromptVariant.objects.filter(pk=variants[3].pk).update(status="archived")
        else:
            variants[3].revision = 2
            variants[3].save()
            make_embedding(variant=variants[3])
        matching.find(TEXT)
    assert len({question.stamp for question in worker.asked}) == 2


def test_an_unencoded_variant_does_not_invalidate_cached_answers(variants):
    with EncodeThread(near(variants, 0.99)) as worker:
        matching.find(TEXT)
        make_embedding(variant=make_variant(text="a broken ring"), error="It failed.")
        make_variant(text="a new ring")
        matching.find(TEXT)
    assert len(worker.asked) == 1


# --- when the encode worker does not answer ---------------------------------------------------------
def test_a_timeout_is_an_encoder_busy_error_and_frees_the_slot(variants, monkeypatch):
    monkeypatch.setattr(matching, "WAIT_SECONDS", 1)
    for _ in range(matching.WAITING_AT_ONCE + 1):
        with pytest.raises(EncoderBusy, match="did not answer within 1 second") as error:
            matching.find(TEXT)
        assert error.value.retryable and error.value.retry_after


def test_the_number_of_waiting_threads_is_bounded_and_cached_answers_need_no_slot(variants):
    with EncodeThread(near(variants, 0.99)):
        matching.find(TEXT)
    for _ in range(matching.WAITING_AT_ONCE):
        assert matching._places.acquire(blocking=False)
    try:
        started = time.monotonic()
        with pytest.raises(EncoderBusy):
            matching.find("another text")
        assert time.monotonic() - started < 1
        assert matching.find(TEXT).variant == variants[0]
    finally:
        for _ in range(matching.WAITING_AT_ONCE):
            matching._places.release()


def test_without_a_live_encode_worker_requests_fail_at_once(variants):
    from generation.models import Worker

    Worker.objects.all().delete()
    make_worker(name="gone", queue="encode", silent_seconds=60)
    started = time.monotonic()
    with pytest.raises(EncoderUnavailable, match="No encode worker is running"):
        matching.find(TEXT)
    assert time.monotonic() - started < 1


def test_a_failing_encoder_is_an_unavailable_error_that_is_not_cached(variants):
    with EncodeThread({NORMALIZED: Answer(failure="It cannot be loaded.")}) as worker:
        for _ in range(2):
            with pytest.raises(EncoderUnavailable, match="It cannot be loaded"):
                matching.find(TEXT)
    assert len(worker.asked) == 2


def test_without_redis_the_error_is_retryable(variants, monkeypatch):
    nowhere = redis.Redis.from_url(f"redis://127.0.0.1:{free_port()}/0")
    monkeypatch.setattr(redis_client, "_client", nowhere)
    monkeypatch.setattr(redis_client, "_resume_at", 0.0)
    with pytest.raises(EncoderUnavailable, match="Redis does not respond"):
        matching.find(TEXT)
    assert matching.find("a blue vase").variant == variants[2]


# --- over HTTP ------------------------------------------------------------------------------------
def test_a_job_over_http_reports_its_match(variants):
    with EncodeThread(near(variants, 0.99)):
        answer = API().post("/v1/jobs", {"text": TEXT})
    assert answer.status_code == 202, answer.content
    job = answer.json()
    assert job["match"] == {"asked": "The RED vase on a table", "score": 0.99}
    assert (job["variant"], job["text"]) == (variants[0].slug, variants[0].text)
    assert API().post("/v1/jobs", {"variant": variants[0].slug}).json()["match"] is None


def test_a_refusal_over_http_names_the_three_nearest(variants):
    with EncodeThread(near(variants, 0.5, 0.4, 0.3)):
        body = problem(API().post("/v1/jobs", {"text": TEXT}), 422, "variant_not_found")
    assert [one["variant"] for one in body["nearest"]] == [one.slug for one in variants[:3]]
    assert body["parameter"] == "text" and not Job.objects.exists()


def test_match_false_requires_a_text_of_the_catalogue_and_is_valid_with_text_only(variants):
    api = API()
    with EncodeThread(near(variants, 0.99)):
        body = problem(
            api.post("/v1/jobs", {"text": TEXT, "match": False}), 422, "variant_not_found"
        )
        assert "nearest" not in body
        assert api.post("/v1/jobs", {"text": TEXT, "match": True}).status_code == 202
    slug = {"variant": variants[0].slug, "match": True}
    assert problem(api.post("/v1/jobs", slug), 400, "invalid_request")["parameter"] == "match"


def test_a_busy_encoder_over_http_is_503_with_retry_after(variants, monkeypatch):
    monkeypatch.setattr(matching, "WAIT_SECONDS", 1)
    answer = API().post("/v1/jobs", {"text": TEXT})
    assert problem(answer, 503, "encoder_busy")["retryable"] is True
    assert int(answer["Retry-After"]) >= 1


def test_a_prediction_of_another_text_uses_the_nearest_variant(variants):
    with EncodeThread(near(variants, 0.99)):
        answer = API().post("/v1/predictions", {"version": "teacher", "input": {"prompt": TEXT}})
    assert answer.status_code in (201, 202), answer.content
    job = Job.objects.get()
    assert (job.variant, job.match_score, job.via) == (variants[0], 0.99, "replicate")


def test_a_refusal_on_the_route_of_openai_names_the_three_nearest(variants):
    with EncodeThread(near(variants, 0.5, 0.4, 0.3)):
        answer = API().post("/v1/images/generations", {"prompt": TEXT})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (
        400,
        "variant_not_found",
        "prompt",
    )
    assert [one["variant"] for one in error["nearest"]] == [one.slug for one in variants[:3]]


def test_the_page_of_a_job_shows_the_requested_text(variants, client):
    with EncodeThread(near(variants, 0.99)):
        job = submission.submit(make_user(), JobRequest(text=TEXT))
    client.force_login(make_user(username="admin", is_superuser=True))
    page = client.get(f"/admin/generation/job/{job.pk}/change/").content.decode()
    assert "The RED vase on a table" in page and "0.99" in page


def test_a_text_that_is_too_long_over_http_is_422(variants):
    body = problem(API().post("/v1/jobs", {"text": "vase " * 13}), 422, "prompt_invalid")
    assert body["parameter"] == "text" and "13 words" in body["detail"]


def test_two_requests_wait_at_the_same_time_and_both_are_answered(variants):
    answers = near(variants, 0.99)
    asked = match_requests.Question(NORMALIZED, ENCODER, matching.stamp(ENCODER))
    found: list[Answer] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(
                match_requests.wait(str(match_requests.put(asked, seconds=5)), seconds=5)
                or Answer()
            )
        )
        for _ in range(matching.WAITING_AT_ONCE)
    ]
    for thread in threads:
        thread.start()
    with EncodeThread(answers):
        for thread in threads:
            thread.join()
    assert found == [answers[NORMALIZED]] * matching.WAITING_AT_ONCE
