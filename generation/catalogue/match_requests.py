"""Questions of web processes to the encode worker about texts, and its answers, in Redis lists that may be lost.

An answer is kept for an hour under its question, which includes the state of the catalogue.
"""

import hashlib
import json
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass

from generation.engine.prompts.texts import normalize
from generation.infra.redis_client import attempt, decoded, patient_client

WAITING = "retort:match:waiting"  # list of ids, the newest first
ASKED = "retort:match:asked:"  # id → question, as long as a client waits for the answer
ANSWERED = "retort:match:answered:"  # id → list of one answer
KNOWN = "retort:match:texts:"  # hash of a text → hash of a question about it → answer
KNOWN_SECONDS = 3600
MOST_WAITING = 64
UNREAD_SECONDS = 30  # until an answer that was not fetched expires


@dataclass(frozen=True)
class Question:
    """Which variants are nearest to this normalised text. stamp: state of the catalogue, from `matching.stamp`."""

    text: str
    encoder_fingerprint: str
    stamp: str

    @property
    def key(self) -> str:
        """Return the name of the answers about the text."""
        return _key(self.text)

    @property
    def field(self) -> str:
        return hashlib.sha256(json.dumps(astuple(self)).encode()).hexdigest()


def _key(text: str) -> str:
    return KNOWN + hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Near:
    """A variant (id), the cosine of the two texts' vectors, and why the words differ in meaning, if they do."""

    variant_id: int
    score: float
    objection: str = ""


@dataclass(frozen=True)
class Answer:
    """The nearest variants, nearest first. failure: why there is no answer; such a one is not kept."""

    near: tuple[Near, ...] = ()
    failure: str = ""


# --- in web processes -------------------------------------------------------------------------------------
def known(question: Question) -> Answer | None:
    """Return the answer of the last hour, if there is one."""
    kept = attempt(lambda redis: redis.hget(question.key, question.field), None)
    return _read(kept) if kept else None


def put(question: Question, *, seconds: int) -> str | None:
    """Queue a question for the encode worker. Returns its id, None without Redis. seconds: until it expires."""
    asked = uuid.uuid4().hex

    def write(redis) -> str:
        with redis.pipeline(transaction=False) as pipe:
            pipe.set(ASKED + asked, json.dumps(asdict(question)), ex=seconds)
            pipe.lpush(WAITING, asked)
            pipe.ltrim(WAITING, 0, MOST_WAITING - 1)
            pipe.execute()
        return asked

    return attempt(write, None)


def wait(asked: str, *, seconds: int) -> Answer | None:
    """Return the answer to this question, None if it does not come in time. Blocks the thread."""
    found = attempt(
        lambda _: patient_client(seconds).blpop([ANSWERED + asked], timeout=seconds), None
    )
    return _read(found[1]) if found else None


def forget(texts: Iterable[str]) -> None:
    """Delete the answers about these texts, normalised or as they were asked."""
    names = [_key(normalize(text)) for text in texts]
    if names:
        attempt(lambda redis: redis.delete(*names), None)


# --- in the encode worker ----------------------------------------------------------------------------------
def are_waiting() -> bool:
    """Return whether questions wait; False while Redis is unreachable."""
    return bool(attempt(lambda redis: redis.llen(WAITING), 0))


def take() -> tuple[str, Question] | None:
    """Take the question that waits longest off the list. Returns its id and the question."""

    def read(redis) -> tuple[str, Question] | None:
        while asked := redis.rpop(WAITING):
            if question := redis.getdel(ASKED + asked):  # else it has expired
                with suppress(TypeError):  # of another version
                    return asked, Question(**decoded(question))
        return None

    return attempt(read, None)


def answer(asked: str, question: Question, answer: Answer) -> None:
    """Send the answer to the web process, and keep it unless it is a failure."""
    written = json.dumps(asdict(answer))

    def write(redis) -> None:
        with redis.pipeline(transaction=False) as pipe:
            pipe.rpush(ANSWERED + asked, written)
            pipe.expire(ANSWERED + asked, UNREAD_SECONDS)
            if not answer.failure:
                pipe.hset(question.key, question.field, written)
                pipe.expire(question.key, KNOWN_SECONDS)
            pipe.execute()

    attempt(write, None)


def _read(written: str | bytes) -> Answer | None:
    """Return the answer, None if another version wrote it."""
    try:
        fields = decoded(written)
        return Answer(tuple(Near(**near) for near in fields["near"]), fields["failure"])
    except (TypeError, LookupError):
        return None
