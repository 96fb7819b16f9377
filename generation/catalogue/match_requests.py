"""What web processes ask the encode worker about a text, and what it answers: a conversation in Redis that may be lost.

Knows neither the catalogue nor vectors. An answer is kept for an hour under its question, which names the state of the
catalogue, so that the same text is asked about once.
"""

import hashlib
import json
import uuid
from dataclasses import asdict, astuple, dataclass

from generation.infra.redis_client import attempt, patient_client

WAITING = "retort:match:waiting"  # list of ids, the newest first
ASKED = "retort:match:asked:"  # id → question, as long as somebody waits for the answer
ANSWERED = "retort:match:answered:"  # id → list of one answer
KNOWN = "retort:match:known:"  # hash of a question → answer
KNOWN_SECONDS = 3600
MOST_WAITING = 64
UNREAD_SECONDS = 30  # an answer that nobody fetched


@dataclass(frozen=True)
class Question:
    """Which variants are nearest to this normalised text. stamp: of the catalogue, as `matching.stamp` has it."""

    text: str
    encoder_fingerprint: str
    stamp: str

    @property
    def key(self) -> str:
        return KNOWN + hashlib.sha256(json.dumps(astuple(self)).encode()).hexdigest()


@dataclass(frozen=True)
class Near:
    """A variant (id) with the cosine of the two texts' vectors, and what the words have against it, if anything."""

    variant_id: int
    score: float
    objection: str = ""


@dataclass(frozen=True)
class Answer:
    """The nearest variants, nearest first. failure: why there is no answer; such a one is not kept."""

    near: tuple[Near, ...] = ()
    failure: str = ""


# --- who asks -------------------------------------------------------------------------------------
def known(question: Question) -> Answer | None:
    """What was answered within the last hour."""
    kept = attempt(lambda redis: redis.get(question.key), None)
    return _read(kept) if kept else None


def put(question: Question, *, seconds: int) -> str | None:
    """Leave a question for the encode worker. Returns its id, None if Redis is away. seconds: it is dropped then."""
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
    """The answer to the question of this id, if it comes in time. Holds the thread."""
    found = attempt(
        lambda _: patient_client(seconds).blpop([ANSWERED + asked], timeout=seconds), None
    )
    return _read(found[1]) if found else None


# --- who answers ----------------------------------------------------------------------------------
def are_waiting() -> bool:
    """Whether there is a question that nobody has taken; not while Redis is away."""
    return bool(attempt(lambda redis: redis.llen(WAITING), 0))


def take() -> tuple[str, Question] | None:
    """The id and the question that waits longest, which is nobody else's then."""

    def read(redis) -> tuple[str, Question] | None:
        while asked := redis.rpop(WAITING):
            if question := redis.getdel(ASKED + asked):  # else whoever asked has given up
                return asked, Question(**json.loads(question))
        return None

    return attempt(read, None)


def answer(asked: str, question: Question, answer: Answer) -> None:
    """Hand it to whoever asked, and keep it unless it is a failure."""
    written = json.dumps(asdict(answer))

    def write(redis) -> None:
        with redis.pipeline(transaction=False) as pipe:
            pipe.rpush(ANSWERED + asked, written)
            pipe.expire(ANSWERED + asked, UNREAD_SECONDS)
            if not answer.failure:
                pipe.set(question.key, written, ex=KNOWN_SECONDS)
            pipe.execute()

    attempt(write, None)


def _read(written: str | bytes) -> Answer:
    fields = json.loads(written)
    return Answer(tuple(Near(**near) for near in fields["near"]), fields["failure"])
