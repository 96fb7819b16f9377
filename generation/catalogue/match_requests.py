"""Questions of web processes to the encode worker (which variants are nearest to a text?) and answers, over Redis.

Both may be lost. Answers are cached for an hour; the key includes the state of the catalogue.
"""

import hashlib
import json
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass

from generation.engine.prompts.texts import normalize
from generation.infra.redis_client import attempt, decoded, patient_client

WAITING = "retort:match:waiting"  # list of ids of questions, newest first
ASKED = "retort:match:asked:"  # id → question, while a client waits for the answer
ANSWERED = "retort:match:answered:"  # id → list of one answer
KNOWN = "retort:match:texts:"  # cache: hash of a text → hash of a question about it → answer
KNOWN_SECONDS = 3600
MAX_WAITING = 64
UNREAD_SECONDS = 30  # lifetime of an answer that is not fetched


@dataclass(frozen=True)
class Question:
    """Which variants are nearest to this normalised text. stamp: state of the catalogue, from `matching.stamp`."""

    text: str
    encoder_fingerprint: str
    stamp: str

    @property
    def key(self) -> str:
        """Return the Redis key of cached answers about the text."""
        return _key(self.text)

    @property
    def field(self) -> str:
        return hashlib.sha256(json.dumps(astuple(self)).encode()).hexdigest()


def _key(text: str) -> str:
    return KNOWN + hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Near:
    """A near variant. score: cosine of the two texts' vectors. objection: why the meanings differ, or ""."""

    variant_id: int
    score: float
    objection: str = ""


@dataclass(frozen=True)
class Answer:
    """The nearest variants, nearest first. failure: why there are none; failures are not cached."""

    near: tuple[Near, ...] = ()
    failure: str = ""


# --- in web processes -------------------------------------------------------------------------------------
def known(question: Question) -> Answer | None:
    """Return the cached answer, or None."""
    kept = attempt(lambda redis: redis.hget(question.key, question.field), None)
    return _read(kept) if kept else None


def put(question: Question, *, seconds: int) -> str | None:
    """Queue a question for the encode worker. Return its id, None without Redis. seconds: until it expires."""
    asked = uuid.uuid4().hex

    def write(redis) -> str:
        with redis.pipeline(transaction=False) as pipe:
            pipe.set(ASKED + asked, json.dumps(asdict(question)), ex=seconds)
            pipe.lpush(WAITING, asked)
            pipe.ltrim(WAITING, 0, MAX_WAITING - 1)
            pipe.execute()
        return asked

    return attempt(write, None)


def wait(asked: str, *, seconds: int) -> Answer | None:
    """Return the answer to the question with this id, None after a timeout. Blocks the thread."""
    found = attempt(
        lambda _: patient_client(seconds).blpop([ANSWERED + asked], timeout=seconds), None
    )
    return _read(found[1]) if found else None


def forget(texts: Iterable[str]) -> None:
    """Delete the cached answers about these texts, which need not be normalised."""
    names = [_key(normalize(text)) for text in texts]
    if names:
        attempt(lambda redis: redis.delete(*names), None)


# --- in the encode worker ----------------------------------------------------------------------------------
def are_waiting() -> bool:
    """Return whether there are waiting questions; False while Redis is unreachable."""
    return bool(attempt(lambda redis: redis.llen(WAITING), 0))


def take() -> tuple[str, Question] | None:
    """Remove the oldest question from the list. Return its id and the question, None without one."""

    def read(redis) -> tuple[str, Question] | None:
        while asked := redis.rpop(WAITING):
            if question := redis.getdel(ASKED + asked):  # None: expired
                with suppress(TypeError):  # written by another version
                    return asked, Question(**decoded(question))
        return None

    return attempt(read, None)


def answer(asked: str, question: Question, answer: Answer) -> None:
    """Send the answer to the web process, and cache it unless it is a failure."""
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
    """Parse an answer. None if another version wrote it."""
    try:
        fields = decoded(written)
        return Answer(tuple(Near(**near) for near in fields["near"]), fields["failure"])
    except (TypeError, LookupError):
        return None
