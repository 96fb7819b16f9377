"""Missing embeddings of the catalogue: taken from releases that contain them, else computed in batches on the CPU.

A text encoder, and torch with it, is loaded when the first text must be encoded: while releases contain all embeddings,
the process stays small.
"""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import structlog
from django.conf import settings

from generation.catalogue import bundled_embeddings, embeddings
from generation.catalogue import variants as catalogue
from generation.engine.errors import EngineError, ReleaseInvalid
from generation.engine.request import StoredEmbedding
from generation.infra import heartbeat, metrics, stalls
from generation.models import PromptVariant, Release
from generation.releases import lifecycle as releases

if TYPE_CHECKING:
    from generation.engine.prompts.encoder import Encoder

log = structlog.get_logger(__name__)

# Texts encoded between two calls of `between`: one second for a large text encoder on one thread.
TEXTS_AT_ONCE = 8
BATCH = 128  # variants stored in one transaction
_encoders: "dict[str, Encoder]" = {}  # loaded in this process, by fingerprint


def encode_missing(
    *,
    seconds: float | None = None,
    on_progress: Callable[[int], None] | None = None,
    between: Callable[[], None] | None = None,
) -> int:
    """Encode every active variant that lacks an embedding, for every encoder in use. Return how many remain.

    seconds: time limit, checked after each batch. on_progress: called with the size of each finished batch. between:
    called every TEXTS_AT_ONCE texts, for work that cannot wait. The error of a text that cannot be encoded is stored;
    such texts do not count as remaining.
    """
    deadline = time.monotonic() + seconds if seconds is not None else float("inf")
    if taken := bundled_embeddings.store_missing():
        metrics.increment("retort_encoded_total", taken, outcome="enclosed")
        if on_progress:
            on_progress(taken)
    in_use = releases.encoders_in_use()
    held = {release.encoder_fingerprint for release in in_use}
    for fingerprint in set(_encoders) - held:
        del _encoders[fingerprint]
    for fingerprint in sorted(releases.fingerprints_in_use() - held):
        if catalogue.missing(fingerprint).exists():
            _mark_unavailable(
                fingerprint,
                "no registered release holds it. Register the teacher with its encoder.",
            )
    remaining = 0
    for release in in_use:
        fingerprint = release.encoder_fingerprint
        if not catalogue.missing(fingerprint).exists():
            continue
        encoder = load(release)
        if encoder is None:
            continue
        after = 0
        while time.monotonic() < deadline and not heartbeat.stopping.is_set():
            batch = list(catalogue.missing(fingerprint, BATCH, after=after))
            if not batch:
                break
            _store(batch, fingerprint, _encode(encoder, batch, between))
            after = batch[-1].pk
            if on_progress:
                on_progress(len(batch))
        else:
            remaining += catalogue.missing(fingerprint).count()
    return remaining


def load(release: Release) -> "Encoder | None":
    """Return the release's encoder, cached in this process. None if it fails to load; its variants get the error."""
    fingerprint = release.encoder_fingerprint
    if fingerprint in _encoders:
        return _encoders[fingerprint]
    from generation.engine import device as devices
    from generation.engine.prompts import encoder as engine_encoder

    started = time.monotonic()
    # One thread by default: a text is so little work that on a busy machine two threads mostly wait for each other
    # (measured on two loaded cores: 475 texts/s with one thread, 100 with two).
    devices.choose("cpu", "float32", threads=settings.TORCH_THREADS or 1)
    try:
        encoder = engine_encoder.load(releases.folder(release))
        if encoder.fingerprint != fingerprint:
            raise ReleaseInvalid(
                f"{release.name}: the encoder on disk is {encoder.fingerprint[:12]}, the release was registered "
                f"with {fingerprint[:12]}. Register the folder again under another name."
            )
    except (EngineError, OSError, ValueError) as error:
        log.error("encoder_unavailable", release=release.name, error=str(error))
        _mark_unavailable(fingerprint, str(error))
        return None
    log.info(
        "encoder_loaded",
        release=release.name,
        encoder=fingerprint[:12],
        seconds=round(time.monotonic() - started, 3),
    )
    _encoders[fingerprint] = encoder
    return encoder


def _mark_unavailable(fingerprint: str, reason: str) -> None:
    """Store the reason with every waiting variant. They stay in `catalogue.missing` and are tried again."""
    marked = embeddings.mark_missing(fingerprint, f"{catalogue.ENCODER_UNAVAILABLE}{reason}")
    metrics.increment("retort_encoded_total", marked, outcome="failed")


def _encode(
    encoder: "Encoder", batch: Sequence[PromptVariant], between: Callable[[], None] | None
) -> list[StoredEmbedding | Exception]:
    """Return the embedding or the error of each variant."""
    started = time.monotonic()
    results: list[StoredEmbedding | Exception] = []
    for start in range(0, len(batch), TEXTS_AT_ONCE):
        results += _results(encoder, batch[start : start + TEXTS_AT_ONCE])
        stalls.progressed()
        if between:
            between()
    failed = sum(isinstance(result, Exception) for result in results)
    log.info(
        "variants_encoded",
        encoder=encoder.fingerprint[:12],
        encoded=len(batch) - failed,
        failed=failed,
        seconds=round(time.monotonic() - started, 3),
    )
    return results


def _results(
    encoder: "Encoder", variants: Sequence[PromptVariant]
) -> list[StoredEmbedding | Exception]:
    try:
        return list(encoder.encode([variant.text for variant in variants]))
    except Exception as error:
        if len(variants) == 1:
            if not isinstance(error, EngineError):
                log.exception("encoding_crashed", variant=variants[0].slug)
            return [error]
        # One of the texts causes the error: encode each separately.
        return [_results(encoder, [variant])[0] for variant in variants]


def _store(
    batch: Sequence[PromptVariant],
    fingerprint: str,
    results: Sequence[StoredEmbedding | Exception],
) -> None:
    rows = embeddings.store(batch, fingerprint, results)
    failed = [row for row in rows if row.data is None]
    for row in failed:
        log.warning("variant_not_encoded", variant=row.variant.slug, error=row.error)
    metrics.increment("retort_encoded_total", len(rows) - len(failed), outcome="encoded")
    metrics.increment("retort_encoded_total", len(failed), outcome="failed")
