"""Matching of texts to prompt variants: the exact match, or the most similar variant if it is similar enough.

The encode worker, which has the text encoder, computes the similarities; this module decides.
"""

import threading
from dataclasses import dataclass

import structlog
from django.conf import settings
from django.db.models import Count, F, QuerySet, Sum

from generation.catalogue import match_requests, text_rules
from generation.catalogue import variants as catalogue
from generation.catalogue.match_requests import Answer, Near, Question
from generation.engine.prompts.texts import tidy
from generation.errors import EncoderBusy, EncoderUnavailable, VariantNotFound
from generation.infra import heartbeat, metrics, notifications
from generation.models import Embedding, PromptVariant
from generation.releases import lifecycle as releases

log = structlog.get_logger(__name__)

WAIT_SECONDS = 5
WAITING_AT_ONCE = 2  # at most so many threads of the web process wait
_places = threading.BoundedSemaphore(WAITING_AT_ONCE)


@dataclass(frozen=True)
class Match:
    """The variant for a text. asked, score: the text and its cosine similarity (1 = equal) if the variant's differs."""

    variant: PromptVariant
    asked: str = ""
    score: float | None = None


def find(text: str, *, exactly: bool = False) -> Match:
    """Return the variant for a text. exactly: only a variant with this text (normalised).

    May block the thread for WAIT_SECONDS. Raises PromptInvalid, VariantNotFound (with the most similar variants if
    known), EncoderBusy and EncoderUnavailable.
    """
    normalized = text_rules.check_text(text, ())
    try:
        return Match(catalogue.find(text=text))
    except VariantNotFound:
        # The text of an archived variant is not matched to another variant.
        is_known = PromptVariant.objects.filter(normalized_text=normalized).exists()
        if exactly or is_known or settings.MATCH_THRESHOLD >= 1:
            raise
    fingerprint = compared_encoder()
    if fingerprint is None:
        raise VariantNotFound(
            f"No prompt variant has the text “{text}”, and no text encoder is available to find a similar one.",
            parameter="text",
        )
    question = Question(normalized, fingerprint, stamp(fingerprint))
    try:
        answer = match_requests.known(question) or _ask(question)
    except (EncoderBusy, EncoderUnavailable):
        metrics.increment("retort_matches_total", outcome="unanswered")
        raise
    return _decide(tidy(text), answer.near)


def compared_encoder() -> str | None:
    """Return the fingerprint of the first encoder, of the active teacher or student, with files here; None if none."""
    held = {release.encoder_fingerprint for release in releases.encoders_in_use()}
    served = (release.encoder_fingerprint for release in reversed(releases.serving()))
    return next((fingerprint for fingerprint in served if fingerprint in held), None)


# --- compared embeddings --------------------------------------------------------------------------
def encoded(fingerprint: str) -> QuerySet[Embedding]:
    """Return the embeddings of the current texts of active variants."""
    return Embedding.objects.filter(
        encoder_fingerprint=fingerprint,
        error="",
        revision=F("variant__revision"),
        variant__status=PromptVariant.Status.ACTIVE,
    )


def stamp(fingerprint: str) -> str:
    """Return a string that changes whenever the set of rows of `encoded` changes."""
    of = encoded(fingerprint).aggregate(
        rows=Count("pk"), ids=Sum("pk"), squares=Sum(F("pk") * F("pk"))
    )
    return "{rows}.{ids}.{squares}".format(**of)


# --- asking ---------------------------------------------------------------------------------------
def _ask(question: Question) -> Answer:
    if not heartbeat.is_served("encode"):
        raise EncoderUnavailable("No encode worker is running.", parameter="text", retry_after=10)
    if not _places.acquire(blocking=False):
        raise EncoderBusy(parameter="text", retry_after=2)
    try:
        asked = match_requests.put(question, seconds=WAIT_SECONDS)
        if asked is None:
            raise EncoderUnavailable("Redis does not respond.", parameter="text", retry_after=5)
        notifications.match(WAIT_SECONDS)
        answer = match_requests.wait(asked, seconds=WAIT_SECONDS)
    finally:
        _places.release()
    if answer is None:
        raise EncoderBusy(
            f"The encode worker did not answer within {WAIT_SECONDS} seconds.",
            parameter="text",
            retry_after=5,
        )
    if answer.failure:
        raise EncoderUnavailable(answer.failure, parameter="text", retry_after=30)
    return answer


# --- deciding -------------------------------------------------------------------------------------
def _decide(text: str, near: tuple[Near, ...]) -> Match:
    variants = PromptVariant.objects.filter(status=PromptVariant.Status.ACTIVE).in_bulk(
        [one.variant_id for one in near]
    )
    alive = [(variants[one.variant_id], one) for one in near if one.variant_id in variants]
    if not alive:
        raise VariantNotFound(
            f"No prompt variant has the text “{text}”, and no variant is encoded yet to compare it with.",
            parameter="text",
        )
    variant, first = alive[0]
    if first.score >= settings.MATCH_THRESHOLD and not first.objection:
        metrics.increment("retort_matches_total", outcome="matched")
        log.info("text_matched", text=text, variant=variant.slug, score=first.score)
        return Match(variant, text, first.score)
    why = first.objection or "it is not similar enough"
    metrics.increment("retort_matches_total", outcome="refused")
    log.info("text_not_matched", text=text, nearest=variant.slug, score=first.score, why=why)
    raise VariantNotFound(
        f"No prompt variant has the text “{text}”. The most similar is “{variant.text}” ({first.score:.2f}), "
        f"but {why}.",
        parameter="text",
        members={
            "nearest": [
                {"variant": variant.slug, "text": variant.text, "score": one.score}
                for variant, one in alive
            ]
        },
    )
