"""Embeddings of the catalogue: what is missing is encoded in batches on the CPU and stored. Knows no jobs.

Imported inside tasks and commands only: it loads the text encoder, and torch with it.
"""

import time
from collections.abc import Callable, Sequence

import structlog
from django.conf import settings
from django.db import transaction

from generation import catalogue, metrics, presence, releases
from generation.engine import device as devices
from generation.engine import encoder as engine_encoder
from generation.engine.encoder import Encoder
from generation.engine.errors import EngineError, ReleaseInvalid
from generation.engine.request import StoredEmbedding
from generation.models import Embedding, PromptVariant, Release

log = structlog.get_logger(__name__)

_encoders: dict[str, Encoder] = {}  # of this process, by fingerprint


def begin() -> None:
    """Show the heartbeat of an encode worker. The encoder itself is loaded when there is something to encode."""
    presence.begin("encode", device="cpu")


def encode_missing(
    *, seconds: float | None = None, on_progress: Callable[[int], None] | None = None
) -> int:
    """Encode every active variant that lacks an embedding, for every encoder in use. Returns how many remain.

    seconds: stop after the batch in which they are over. on_progress: called with the size of each finished batch.
    What cannot be encoded is stored with the reason and does not remain.
    """
    deadline = time.monotonic() + seconds if seconds is not None else float("inf")
    in_use = releases.encoders_in_use()
    for fingerprint in set(_encoders) - {release.encoder_fingerprint for release in in_use}:
        del _encoders[fingerprint]
    remaining = 0
    for release in in_use:
        fingerprint = release.encoder_fingerprint
        if not catalogue.missing(fingerprint).exists():
            continue
        encoder = _load(release)
        if encoder is None:
            continue
        after = 0
        while time.monotonic() < deadline and not presence.stopping.is_set():
            batch = list(catalogue.missing(fingerprint, settings.ENCODE_BATCH_SIZE, after=after))
            if not batch:
                break
            _store(batch, fingerprint, _encode(encoder, batch))
            after = batch[-1].pk
            if on_progress:
                on_progress(len(batch))
        else:
            remaining += catalogue.missing(fingerprint).count()
    return remaining


def _load(release: Release) -> Encoder | None:
    """The release's encoder, or None after its variants were marked with the reason."""
    fingerprint = release.encoder_fingerprint
    if fingerprint in _encoders:
        return _encoders[fingerprint]
    started = time.monotonic()
    # One thread unless told otherwise: a text is so little work that two threads only wait for each other on a busy
    # machine (measured on two loaded cores: 475 texts/s with one thread, 100 with two).
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
    """Say so at every variant that waits. `catalogue.missing` goes on listing them, so the next call tries again."""
    error = f"{catalogue.ENCODER_UNAVAILABLE}{reason}"[:500]
    waiting = catalogue.missing(fingerprint)
    rows = [_row(variant, fingerprint, error) for variant in waiting.iterator()]
    with transaction.atomic():
        _insert(rows)
        marked = Embedding.objects.filter(
            encoder_fingerprint=fingerprint, data__isnull=True, variant__in=waiting
        ).update(error=error)
    metrics.increment("retort_encoded_total", marked, outcome="failed")


def _encode(encoder: Encoder, batch: Sequence[PromptVariant]) -> list[StoredEmbedding | Exception]:
    """For each variant its embedding, or why there is none."""
    started = time.monotonic()
    results: list[StoredEmbedding | Exception]
    try:
        results = list(encoder.encode([variant.text for variant in batch]))
    except Exception as error:
        if len(batch) == 1:
            if not isinstance(error, EngineError):
                log.exception("encoding_crashed", variant=batch[0].slug)
            return [error]
        # One of them is at fault. Alone, each gets its own verdict.
        results = [_encode(encoder, [variant])[0] for variant in batch]
    if len(batch) > 1:
        failed = sum(isinstance(result, Exception) for result in results)
        log.info(
            "variants_encoded",
            encoder=encoder.fingerprint[:12],
            encoded=len(batch) - failed,
            failed=failed,
            seconds=round(time.monotonic() - started, 3),
        )
    return results


def _store(
    batch: Sequence[PromptVariant],
    fingerprint: str,
    results: Sequence[StoredEmbedding | Exception],
) -> None:
    rows = [
        _row(variant, fingerprint, result) for variant, result in zip(batch, results, strict=True)
    ]
    with transaction.atomic():
        _insert(rows)
        # A row that failed earlier or was found damaged is filled in place: jobs may refer to it.
        earlier = {
            row.variant_id: row
            for row in Embedding.objects.select_for_update().filter(
                encoder_fingerprint=fingerprint,
                data__isnull=True,
                variant__in=[variant.pk for variant in batch],
            )
        }
        for row in rows:
            old = earlier.get(row.variant_id)
            if old and old.revision == row.revision and (row.data or old.error != row.error):
                _fill(old, row)
    failed = sum(row.data is None for row in rows)
    for row in rows:
        if row.data is None:
            log.warning("variant_not_encoded", variant=row.variant.slug, error=row.error)
    metrics.increment("retort_encoded_total", len(rows) - failed, outcome="encoded")
    metrics.increment("retort_encoded_total", failed, outcome="failed")


def _row(
    variant: PromptVariant, fingerprint: str, result: StoredEmbedding | Exception | str
) -> Embedding:
    row = Embedding(
        variant=variant,
        revision=variant.revision,
        text=variant.text,
        encoder_fingerprint=fingerprint,
    )
    if isinstance(result, StoredEmbedding):
        row.data, row.shape, row.dtype = result.data, list(result.shape), result.dtype
        row.sha256 = result.sha256
    else:
        row.error = (str(result) or repr(result))[:500]
    return row


def _insert(rows: Sequence[Embedding]) -> None:
    """Another encode worker may have been first: its rows stay. Variants deleted meanwhile are left out."""
    alive = set(
        PromptVariant.objects.select_for_update(no_key=True)
        .filter(pk__in=[row.variant_id for row in rows])
        .order_by("pk")
        .values_list("pk", flat=True)
    )
    Embedding.objects.bulk_create(
        [row for row in rows if row.variant_id in alive], ignore_conflicts=True, batch_size=500
    )


def _fill(old: Embedding, new: Embedding) -> None:
    if new.data is not None and old.sha256 and old.sha256 != new.sha256:
        # Not wrong, but pictures made before and after may differ by a rounding.
        log.warning("embedding_not_identical", variant=new.variant.slug, revision=new.revision)
    old.data, old.shape, old.dtype = new.data, new.shape, new.dtype
    old.sha256, old.error = new.sha256 or old.sha256, new.error
    old.save()
