"""Nearest variants in the encode worker, with a real toy encoder and real embeddings in PostgreSQL."""

import time

import numpy as np
import pytest
from django.conf import settings
from django.db import connection
from django.test.utils import CaptureQueriesContext

from generation import tasks
from generation.catalogue import encoding, match_requests, matching, nearest
from generation.catalogue.match_requests import Answer, Question
from generation.errors import VariantNotFound
from generation.infra import heartbeat
from generation.models import Embedding, PromptVariant
from generation.releases import lifecycle as releases
from tests.factories import make_variant, make_worker

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]

TEXTS = (
    "a red glass vase on a wooden table",
    "a blue metal bowl on a marble slab",
    "a green clay cube on a linen cloth",
)


@pytest.fixture
def release():
    from tests import tiny

    encoding._encoders.clear()
    nearest._indexes.clear()
    folder = settings.RELEASES_ROOT / "tiny"
    folder.parent.mkdir(parents=True)
    tiny.make_tiny_release(folder)
    return releases.activate(releases.register(folder))


@pytest.fixture
def variants(release) -> list[PromptVariant]:
    made = [make_variant(text=text) for text in TEXTS]
    encoding.encode_missing()
    return made


def ask(text: str) -> Answer:
    """Send a question through Redis, as the web process does, and return the answer."""
    (fingerprint,) = releases.fingerprints_in_use()
    question = Question(text, fingerprint, matching.stamp(fingerprint))
    question_id = str(match_requests.put(question, seconds=5))
    nearest.answer_waiting()
    answer = match_requests.wait(question_id, seconds=1)
    assert answer
    return answer


def test_a_text_is_nearest_to_the_variant_with_the_same_words(variants):
    for variant in variants:
        answer = ask(variant.text)
        assert (answer.near[0].variant_id, answer.near[0].objection) == (variant.pk, "")
        assert answer.near[0].score == pytest.approx(1, abs=0.002)  # stored in half precision
        assert len(answer.near) == nearest.SHOWN
        scores = [near.score for near in answer.near]
        assert scores == sorted(scores, reverse=True) and scores[1] < scores[0]


def test_the_scores_are_the_cosines_of_the_whole_stored_embeddings(variants):
    answer = ask(TEXTS[0])
    index = nearest._indexes[next(iter(nearest._indexes))]
    own = {}
    for row in Embedding.objects.all():
        end = index._texts.count(row.text) - 1
        vector = np.frombuffer(row.data, "<f2").reshape(row.shape)[end].astype(np.float32)
        own[row.variant_id] = vector / np.linalg.norm(vector)
    for near in answer.near:
        cosine = float(own[near.variant_id] @ own[variants[0].pk])
        assert near.score == pytest.approx(cosine, abs=0.002)


def test_punctuation_does_not_matter(variants):
    answer = ask("a red glass vase, on a wooden table!")
    assert answer.near[0].variant_id == variants[0].pk
    assert answer.near[0].score == pytest.approx(1, abs=0.002)
    assert len(ask("!!!").near) == nearest.SHOWN


def test_distinguishing_words_are_objections(variants):
    for text, word in (
        (f"not {TEXTS[0]}", "“not”"),
        ("a red glass vase and a bowl on a wooden table", "“bowl”"),
        ("a red glass jug on a wooden table", "“jug”"),
    ):
        objections = {near.variant_id: near.objection for near in ask(text).near}
        assert word in objections[variants[0].pk], objections


def test_a_text_beyond_the_encoders_tokens_has_neighbours_but_no_match(variants):
    answer = ask(" ".join(["unfathomableness"] * 12))
    assert len(answer.near) == nearest.SHOWN
    assert all("words, and the text encoder reads 77" in near.objection for near in answer.near)


def test_after_a_change_of_the_catalogue_only_new_embeddings_are_read(variants):
    ask(TEXTS[0])
    (index,) = nearest._indexes.values()
    read: list[int] = []
    whole = index._read
    index._read = lambda texts: read.append(len(texts)) or whole(texts)  # type: ignore[method-assign]

    ask(TEXTS[1])
    assert read == []  # nothing changed

    new = make_variant(text="an orange cone on a marble slab")
    encoding.encode_missing()
    assert ask(new.text).near[0].variant_id == new.pk
    assert (read, len(index)) == ([1], 4)

    PromptVariant.objects.filter(pk=variants[0].pk).update(status="archived")
    assert variants[0].pk not in [near.variant_id for near in ask(TEXTS[0]).near]
    assert (read, len(index)) == ([1, 0], 3)

    variants[1].text = variants[1].normalized_text = "a yellow ball on a linen cloth"
    variants[1].revision = 2
    variants[1].save()
    encoding.encode_missing()
    assert ask("a yellow ball on a linen cloth").near[0].variant_id == variants[1].pk
    assert read == [1, 0, 1]


def test_only_the_vector_of_a_stored_embedding_is_read(variants):
    with CaptureQueriesContext(connection) as queries:
        ask(TEXTS[0])
    statements = [query["sql"] for query in queries]
    assert not [sql for sql in statements if '"data"' in sql]
    assert len([sql for sql in statements if "substring(stored.data" in sql]) == 1


def test_an_embedding_of_another_shape_is_left_out(variants):
    row = Embedding.objects.get(variant=variants[0])
    Embedding.objects.filter(pk=row.pk).update(data=b"\0\0")
    assert variants[0].pk not in [near.variant_id for near in ask(TEXTS[0]).near]


def test_an_empty_catalogue_has_no_neighbours(release):
    assert ask("a red vase") == Answer()


def test_an_encoder_that_cannot_be_loaded_is_answered_with_the_reason(variants):
    (fingerprint,) = releases.fingerprints_in_use()
    (release,) = releases.encoders_in_use()
    encoding._encoders.clear()
    releases.folder(release).rename(releases.folder(release).with_name("away"))
    assert "cannot be loaded" in ask("a red vase").failure
    unanswerable = Question("a red vase", "f" * 64, "1")
    question_id = str(match_requests.put(unanswerable, seconds=5))
    nearest.answer_waiting()
    answer = match_requests.wait(question_id, seconds=1)
    assert answer and "cannot be loaded" in answer.failure
    assert fingerprint


def test_an_unexpected_failure_is_answered_and_so_is_the_next_question(variants, monkeypatch):
    ask(TEXTS[0])
    (index,) = nearest._indexes.values()
    monkeypatch.setattr(index, "nearest", lambda text: 1 / 0)
    assert "worker failed" in ask("a red vase").failure
    monkeypatch.undo()
    assert ask("a red vase").near


def test_a_match_does_not_wait_for_a_long_encoding(release, monkeypatch):
    """Thirty texts take a second here; the question is answered after the first eight."""
    encoder = encoding.load(release)
    assert encoder
    encode = encoder.encode
    monkeypatch.setattr(
        encoder, "encode", lambda texts: time.sleep(len(texts) / 30) or encode(texts)
    )
    for number in range(30):
        make_variant(text=f"a vase {number}")
    fingerprint = release.encoder_fingerprint
    question = Question("a red vase", fingerprint, matching.stamp(fingerprint))
    match_requests.put(question, seconds=5)
    encoded_by_then: list[int] = []
    answer_waiting = nearest.answer_waiting

    def look() -> None:
        answer_waiting()
        if match_requests.known(question) and not encoded_by_then:
            encoded_by_then.append(Embedding.objects.count())

    encoding.encode_missing(between=look)
    assert encoded_by_then == [0]  # before the first batch was stored
    assert Embedding.objects.count() == 30


def test_the_tasks_of_the_encode_worker_answer_questions(variants):
    (fingerprint,) = releases.fingerprints_in_use()
    first = Question("a red vase", fingerprint, matching.stamp(fingerprint))
    match_requests.put(first, seconds=5)
    tasks.match()
    assert match_requests.known(first)

    make_variant(text="an orange cone")
    second = Question("a blue vase", fingerprint, matching.stamp(fingerprint))
    match_requests.put(second, seconds=5)
    tasks.encode()
    assert match_requests.known(second)
    assert Embedding.objects.filter(variant__text="an orange cone", error="").exists()


def test_web_and_worker_together_match_and_refuse(variants):
    """The real threshold on the toy encoder's own texts: the same words match, others do not."""
    make_worker(name="encode", queue="encode")
    (fingerprint,) = releases.fingerprints_in_use()
    for text in (f"{TEXTS[0]}!", "a dog"):  # put in advance, since the test has one thread
        question = Question(text, fingerprint, matching.stamp(fingerprint))
        match_requests.put(question, seconds=5)
    nearest.answer_waiting()
    with pytest.raises(VariantNotFound) as error:
        matching.find("A dog")
    assert len(error.value.members["nearest"]) == 3


# --- messages -------------------------------------------------------------------------------------
def test_the_lost_message_of_a_question_is_sent_again(transactional_db, redis_server):
    match_requests.put(Question("a red vase", "e" * 64, "1"), seconds=60)
    nearest.begin()
    try:
        deadline = time.monotonic() + 20
        while not redis_server.llen("encode"):  # Celery's queue
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        heartbeat.end()
