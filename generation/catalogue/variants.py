"""Prompt variants: changes, look-up by slug or text, and states of their embeddings."""

from collections.abc import Collection, Sequence

import structlog
from django.db import IntegrityError, connection, models, transaction
from django.db.models import (
    Case,
    CharField,
    Exists,
    F,
    Func,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    Value,
    When,
)
from django.db.models.functions import Coalesce

from generation.access import audit
from generation.catalogue import text_rules
from generation.engine.prompts.texts import normalize, tidy
from generation.errors import EncodingFailed, PromptInvalid, VariantNotEncoded, VariantNotFound
from generation.infra import database, notifications
from generation.models import Embedding, Image, PromptVariant, Release
from generation.releases import lifecycle as releases

log = structlog.get_logger(__name__)

# Values of `Embedding.error` after which the row counts as missing and is encoded again.
ENCODE_AGAIN = "To be encoded again."
ENCODER_UNAVAILABLE = "The text encoder could not be loaded: "


class EmbeddingState(models.TextChoices):
    """State of a variant over all encoders in use. Inactive variants are not encoded and may have none."""

    ENCODED = "encoded"
    PENDING = "pending"
    STALE = "stale", "stale (encoded before the text or the encoder changed)"
    FAILED = "failed"


# --- change ---------------------------------------------------------------------------------------
def has_images(variant: PromptVariant) -> bool:
    return Image.objects.filter(job__variant=variant).exists()


def text_is_locked(slug: str) -> PromptInvalid:
    """Return the error for changing a text that images were made from."""
    return PromptInvalid(
        f"Images were generated from the text of “{slug}”. Request a new revision: they keep the old text.",
        parameter="text",
    )


@transaction.atomic
def save(variant: PromptVariant, *, new_revision: bool = False) -> PromptVariant:
    """Insert or update a variant: the only function that changes a text. Raises PromptInvalid.

    A changed text is a new revision; embeddings of the old one stay, since jobs refer to them. If images were made of
    the old text, `new_revision` must be true.
    """
    stored = (
        PromptVariant.objects.select_for_update(no_key=True).filter(pk=variant.pk).first()
        if variant.pk
        else None
    )
    variant.text = tidy(variant.text)
    variant.tags = text_rules.tidy_tags(variant.tags)
    text_rules.check_notes(variant.notes, stored.notes if stored else "")
    variant.slug = variant.slug or text_rules.slug_for(variant.text)
    changed = stored is not None and stored.text != variant.text
    if stored is None or changed:
        variant.normalized_text = text_rules.validate_text(variant.text, pk=variant.pk)
    if stored:
        if changed and not new_revision and has_images(stored):
            raise text_is_locked(stored.slug)
        variant.revision = stored.revision + changed
    try:
        with transaction.atomic():
            variant.updated_at = database.now()
            variant.save()
    except IntegrityError as error:
        raise _conflict(variant) from error
    _record(stored, variant)
    log.info(
        "variant_saved",
        variant=variant.slug,
        revision=variant.revision,
        status=variant.status,
        is_new=stored is None,
        text_changed=changed,
    )
    if variant.status == PromptVariant.Status.ACTIVE:
        publish_encode()
    return variant


def _record(stored: PromptVariant | None, variant: PromptVariant) -> None:
    """Write the changes to the audit log."""
    if stored is None:
        audit.record("variant_added", variant.slug, text=variant.text, status=variant.status)
        return
    pairs = {
        field: [getattr(stored, field), getattr(variant, field)]
        for field in ("slug", "text", "tags", "status", "max_tries", "quality_floor", "notes")
    }
    changed = {field: pair for field, pair in pairs.items() if pair[0] != pair[1]}
    if changed:
        audit.record("variant_edited", variant.slug, **changed)


def _conflict(variant: PromptVariant) -> PromptInvalid:
    """Return the error for a text or slug that another process saved between the check and the write."""
    same = PromptVariant.objects.filter(normalized_text=variant.normalized_text)
    same = same.exclude(pk=variant.pk)
    if other := same.first():
        return text_rules.duplicate(other.slug)
    return PromptInvalid(f"The slug “{variant.slug}” is already in use.", parameter="slug")


def publish_encode() -> None:
    """Publish a message to encode when this transaction commits, one for all variants that it changes."""
    # Rolling back a savepoint also removes its entries from this list.
    if any(entry[1] is notifications.encode for entry in connection.run_on_commit):
        return
    # robust: the rows are committed, and beat publishes again every minute.
    transaction.on_commit(notifications.encode, robust=True)


# --- find -----------------------------------------------------------------------------------------
def find(*, slug: str | None = None, text: str | None = None) -> PromptVariant:
    """Return the active variant with this slug or this text (normalised). Raises VariantNotFound."""
    if (slug is None) == (text is None):
        raise ValueError("Give exactly one of slug and text.")
    parameter, value = ("variant", slug) if slug is not None else ("text", text)
    wanted = {"slug": slug} if slug is not None else {"normalized_text": normalize(text or "")}
    if not value or "\0" in value:
        raise VariantNotFound(parameter=parameter)
    variant = PromptVariant.objects.filter(**wanted).first()
    if variant is None:
        raise VariantNotFound(
            f"No prompt variant matches “{value[: text_rules.MAX_CHARACTERS]}”.",
            parameter=parameter,
        )
    if variant.status != PromptVariant.Status.ACTIVE:
        raise VariantNotFound(
            f"The prompt variant “{variant.slug}” is {variant.get_status_display().lower()}, not active.",
            parameter=parameter,
        )
    return variant


def not_encoded(
    variant: PromptVariant, release: Release, row: Embedding | None
) -> VariantNotEncoded | EncodingFailed:
    """Return the error for a variant whose embedding for this release is missing or has failed. row: the embedding."""
    if row is not None and not is_missing(row):
        return EncodingFailed(
            f"The prompt variant “{variant.slug}” cannot be encoded for the release {release.name}: {row.error}",
            parameter="variant",
        )
    if row is not None:
        why = f"it has not been encoded yet ({row.error})"
    elif Embedding.objects.filter(variant=variant, error="").exists():
        why = "its embedding is stale: the text or the encoder changed"
    else:
        why = "it has not been encoded yet"
    return VariantNotEncoded(
        f"The prompt variant “{variant.slug}” is not encoded for the release {release.name}: {why}.",
        parameter="variant",
    )


# --- states and what is missing -------------------------------------------------------------------
def is_missing(row: Embedding) -> bool:
    """Return whether the encode worker will retry this failed row."""
    return row.error == ENCODE_AGAIN or row.error.startswith(ENCODER_UNAVAILABLE)


def fingerprints() -> list[str]:
    """Return the fingerprints of the encoders in use, including ones without files on this machine."""
    return sorted(releases.fingerprints_in_use())


def with_states(
    variants: QuerySet[PromptVariant], encoders: Sequence[str] | None = None
) -> QuerySet[PromptVariant]:
    """Annotate `embedding_state` (EmbeddingState or None) and `embedding_reason`. encoders: fingerprints in use."""
    if encoders is None:
        encoders = fingerprints()
    current = Embedding.objects.filter(
        variant=OuterRef("pk"), revision=OuterRef("revision"), encoder_fingerprint__in=encoders
    )
    failed = current.exclude(error__in=["", ENCODE_AGAIN])
    encoded = Q(Value(bool(encoders)))
    for fingerprint in encoders:
        encoded &= Q(Exists(current.filter(encoder_fingerprint=fingerprint, error="")))
    older = Embedding.objects.filter(variant=OuterRef("pk"), error="").exclude(
        revision=OuterRef("revision"), encoder_fingerprint__in=encoders
    )
    return variants.annotate(
        embedding_state=Case(
            When(Exists(failed), then=Value(EmbeddingState.FAILED)),
            When(encoded, then=Value(EmbeddingState.ENCODED)),
            When(~Q(status=PromptVariant.Status.ACTIVE), then=Value(None)),
            When(Exists(older), then=Value(EmbeddingState.STALE)),
            default=Value(EmbeddingState.PENDING),
            output_field=models.CharField(null=True),
        ),
        embedding_reason=Subquery(failed.values("error")[:1]),
    )


def count_states(encoders: Sequence[str] | None = None) -> dict[str, int]:
    """Return how many active variants are in each state."""
    active = PromptVariant.objects.filter(status=PromptVariant.Status.ACTIVE).order_by()
    rows: QuerySet = with_states(active, encoders)
    rows = rows.values("embedding_state").annotate(count=models.Count("pk"))
    return {state.value: 0 for state in EmbeddingState} | {
        row["embedding_state"]: row["count"] for row in rows
    }


def missing(
    encoder_fingerprint: str, limit: int | None = None, *, after: int = 0
) -> QuerySet[PromptVariant]:
    """Return active variants to encode for this encoder, by id, with ids above `after`."""
    done = Embedding.objects.filter(
        variant=OuterRef("pk"),
        revision=OuterRef("revision"),
        encoder_fingerprint=encoder_fingerprint,
    ).exclude(Q(error=ENCODE_AGAIN) | Q(error__startswith=ENCODER_UNAVAILABLE))
    rows = PromptVariant.objects.filter(
        ~Exists(done), status=PromptVariant.Status.ACTIVE, pk__gt=after
    ).order_by("pk")
    return rows if limit is None else rows[:limit]


def usable(encoder_fingerprint: str) -> QuerySet[PromptVariant]:
    """Return the active variants whose text this encoder has not refused, by slug."""
    refused = Embedding.objects.filter(
        variant=OuterRef("pk"),
        revision=OuterRef("revision"),
        encoder_fingerprint=encoder_fingerprint,
        data__isnull=True,
    ).exclude(Q(error=ENCODE_AGAIN) | Q(error__startswith=ENCODER_UNAVAILABLE))
    return PromptVariant.objects.filter(
        ~Exists(refused), status=PromptVariant.Status.ACTIVE
    ).order_by("slug")


def tagged(variants: QuerySet[PromptVariant], tags: Collection[str]) -> QuerySet[PromptVariant]:
    """Return the variants with at least one of the tags; all variants if no tag is given."""
    return variants.filter(tags__overlap=list(tags)) if tags else variants


# Computed by PostgreSQL, since the data of an embedding is about 100 KB.
_SHA256_OF_DATA = Func(
    Coalesce("data", Value(b"")),
    template="encode(sha256(%(expressions)s), 'hex')",
    output_field=CharField(),
)


def encode_again(variants: QuerySet[PromptVariant]) -> int:
    """Mark failed and damaged embeddings of these variants for encoding. Return the number of rows.

    Intact rows stay, since encoding is deterministic and jobs refer to them. Missing ones are encoded too.
    """
    rows = Embedding.objects.filter(
        variant__in=variants.order_by().values("pk"),
        revision=F("variant__revision"),
        encoder_fingerprint__in=fingerprints(),
    )
    with transaction.atomic():
        damaged = list(
            rows.filter(error="").exclude(sha256=_SHA256_OF_DATA).values_list("pk", flat=True)
        )
        marked = Embedding.objects.filter(
            Q(pk__in=damaged) | Q(pk__in=rows.exclude(error="").values("pk"))
        ).update(data=None, error=ENCODE_AGAIN)
        log.info("encoding_requested", marked=marked, damaged=len(damaged))
        publish_encode()
    return marked
