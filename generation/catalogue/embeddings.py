"""Rows of embeddings: inserted once; failed ones are updated in place."""

from collections.abc import Sequence

import structlog
from django.db import transaction

from generation.catalogue import variants as catalogue
from generation.engine.request import StoredEmbedding
from generation.models import Embedding, PromptVariant

log = structlog.get_logger(__name__)


def store(
    batch: Sequence[PromptVariant],
    fingerprint: str,
    results: Sequence[StoredEmbedding | Exception],
) -> list[Embedding]:
    """Store each variant's embedding under this encoder, or its error. Return the rows."""
    rows = [
        _row(variant, fingerprint, result) for variant, result in zip(batch, results, strict=True)
    ]
    with transaction.atomic():
        _insert(rows)
        # A failed or damaged row is updated in place, since jobs may refer to it.
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
    return rows


def mark_missing(fingerprint: str, reason: str) -> int:
    """Store the reason for every variant without an embedding of this encoder. Return the number of rows."""
    error = reason[:500]
    waiting = catalogue.missing(fingerprint)
    rows = [_row(variant, fingerprint, error) for variant in waiting.iterator()]
    with transaction.atomic():
        _insert(rows)
        return Embedding.objects.filter(
            encoder_fingerprint=fingerprint, data__isnull=True, variant__in=waiting
        ).update(error=error)


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
    """Insert rows, except rows that another encode worker has inserted and rows of deleted variants."""
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
        # Acceptable, but pictures made before and after may differ by rounding.
        log.warning("embedding_not_identical", variant=new.variant.slug, revision=new.revision)
    old.data, old.shape, old.dtype = new.data, new.shape, new.dtype
    old.sha256, old.error = new.sha256 or old.sha256, new.error
    old.save()
