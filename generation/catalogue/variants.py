"""Prompt variants: rules for texts, changes, look-up by slug or text, and states of their embeddings.

The rules of a text are in `check_text` and `validate_text`, for forms, imports and the API alike.
"""

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

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
from django.utils.text import slugify

from generation.access import audit
from generation.engine.errors import ReleaseInvalid
from generation.engine.prompts import tokens
from generation.engine.prompts.texts import normalize, tidy
from generation.errors import EncodingFailed, PromptInvalid, VariantNotEncoded, VariantNotFound
from generation.infra import notifications
from generation.models import Embedding, Image, PromptVariant, Release
from generation.releases import lifecycle as releases

log = structlog.get_logger(__name__)

MAX_WORDS = 12
MAX_CHARACTERS = 300
MAX_TAG_CHARACTERS = 60
TAG_SEPARATORS = ",|"
NOT = "not-"  # prefix of a tag whose subject must not be in the picture

# Values of `Embedding.error` after which the row counts as missing and is encoded again.
ENCODE_AGAIN = "To be encoded again."
ENCODER_UNAVAILABLE = "The text encoder could not be loaded: "


class EmbeddingState(models.TextChoices):
    """State of a variant over all encoders in use. A variant that is not active may have none: it is not encoded."""

    ENCODED = "encoded"
    PENDING = "pending"
    STALE = "stale", "stale (encoded before the text or the encoder changed)"
    FAILED = "failed"


# --- text -----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Limit:
    """A text encoder in use: the folder of its tokenizer and its limit in tokens, start and end included."""

    release_name: str
    folder: Path
    max_tokens: int


def limits() -> list[Limit]:
    """Return the limit of every encoder in use whose tokenizer can be read. Read it once for many texts."""
    found = []
    for release in releases.encoders_in_use():
        folder = releases.folder(release)
        try:
            tokens.load_tokenizer(folder)
        except ReleaseInvalid as error:
            # The encode worker refuses texts that are too long, and reports the missing encoder.
            log.warning("tokenizer_unavailable", release=release.name, error=str(error))
        else:
            found.append(Limit(release.name, folder, int(release.manifest["max_tokens"])))
    return found


def check_text(text: str, encoders: Iterable[Limit]) -> str:
    """Return the normalised text if words, characters and tokens are within the limits. Raises PromptInvalid."""
    normalized = normalize(text)
    words = len(normalized.split())
    if words == 0:
        raise PromptInvalid(f"The text is empty; give 1 to {MAX_WORDS} words.", parameter="text")
    if words > MAX_WORDS:
        raise PromptInvalid(
            f"The text has {words} words; at most {MAX_WORDS} are allowed.", parameter="text"
        )
    characters = max(len(tidy(text)), len(normalized))
    if characters > MAX_CHARACTERS:
        raise PromptInvalid(
            f"The text has {characters} characters; at most {MAX_CHARACTERS} are allowed.",
            parameter="text",
        )
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in tidy(text)):
        raise PromptInvalid("The text contains a control character.", parameter="text")
    for encoder in encoders:
        count = tokens.count_tokens(encoder.folder, tidy(text))
        if count > encoder.max_tokens:
            raise PromptInvalid(
                f"The text has {count} tokens; the text encoder of {encoder.release_name} accepts at most "
                f"{encoder.max_tokens}. Use fewer or more common words.",
                parameter="text",
            )
    return normalized


def duplicate(slug: str) -> PromptInvalid:
    """Return the error of a text that another variant has."""
    return PromptInvalid(
        f"The prompt variant “{slug}” already has this text (case, spaces and Unicode forms are ignored).",
        parameter="text",
    )


def validate_text(text: str, *, pk: int | None = None) -> str:
    """Return the normalised text. pk: of the variant that gets the text, if it exists. Raises PromptInvalid."""
    normalized = check_text(text, limits())
    same = PromptVariant.objects.filter(normalized_text=normalized).first()
    if same and same.pk != pk:
        raise duplicate(same.slug)
    return normalized


def tidy_tags(tags: Iterable[str]) -> list[str]:
    """Return each tag once, in order. Raises PromptInvalid."""
    clean = list(dict.fromkeys(tag for tag in map(tidy, tags) if tag))
    for tag in clean:
        if len(tag) > MAX_TAG_CHARACTERS or any(mark in tag for mark in TAG_SEPARATORS):
            raise PromptInvalid(
                f"The tag “{tag}” is not allowed: at most {MAX_TAG_CHARACTERS} characters, no comma, no bar.",
                parameter="tags",
            )
        if f"{NOT}{tag}" in clean:
            raise PromptInvalid(
                f"The tags “{tag}” and “{NOT}{tag}” contradict each other. Remove one of them.",
                parameter="tags",
            )
    return clean


def slug_for(text: str, taken: Iterable[str] | None = None) -> str:
    """Return a free slug made of the text. taken: slugs that are not free; by default those of the catalogue."""
    limit = 110  # room for a number within the column's 120
    stem = slugify(text)[:limit].rstrip("-") or hashlib.sha256(text.encode()).hexdigest()[:12]
    if taken is None:
        taken = set(
            PromptVariant.objects.filter(slug__startswith=stem).values_list("slug", flat=True)
        )
    slug, number = stem, 1
    while slug in taken:
        number += 1
        slug = f"{stem}-{number}"
    return slug


# --- change ---------------------------------------------------------------------------------------
def has_images(variant: PromptVariant) -> bool:
    return Image.objects.filter(job__variant=variant).exists()


def text_is_locked(slug: str) -> PromptInvalid:
    """Return the error of changing a text that images were made of."""
    return PromptInvalid(
        f"Images were generated from the text of “{slug}”. Ask for a new revision: they keep the old text.",
        parameter="text",
    )


@transaction.atomic
def save(variant: PromptVariant, *, new_revision: bool = False) -> PromptVariant:
    """Insert or update a variant: the only function that changes a text. Raises PromptInvalid.

    A changed text is a new revision; embeddings of the old one stay, since jobs refer to them. If images were made of
    the old text, `new_revision` must be true.
    """
    stored = (
        PromptVariant.objects.select_for_update().filter(pk=variant.pk).first()
        if variant.pk
        else None
    )
    variant.text = tidy(variant.text)
    variant.tags = tidy_tags(variant.tags)
    variant.slug = variant.slug or slug_for(variant.text)
    changed = stored is not None and stored.text != variant.text
    if stored is None or changed:
        variant.normalized_text = validate_text(variant.text, pk=variant.pk)
    if stored:
        if changed and not new_revision and has_images(stored):
            raise text_is_locked(stored.slug)
        variant.revision = stored.revision + changed
    try:
        with transaction.atomic():
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
    """Write what changed to the audit log."""
    if stored is None:
        audit.record("variant_added", variant.slug, text=variant.text, status=variant.status)
        return
    pairs = {
        field: [getattr(stored, field), getattr(variant, field)]
        for field in ("slug", "text", "tags", "status", "max_tries", "notes")
    }
    changed = {field: pair for field, pair in pairs.items() if pair[0] != pair[1]}
    if changed:
        audit.record("variant_edited", variant.slug, **changed)


def _conflict(variant: PromptVariant) -> PromptInvalid:
    """Return the error of a text or slug that another process saved between the check and the write."""
    same = PromptVariant.objects.filter(normalized_text=variant.normalized_text)
    same = same.exclude(pk=variant.pk)
    if other := same.first():
        return duplicate(other.slug)
    return PromptInvalid(f"The slug “{variant.slug}” is already in use.", parameter="slug")


def publish_encode() -> None:
    """Ask for missing embeddings when this transaction commits, by one message for all variants that it changes."""
    # An entry of a savepoint that is rolled back leaves this list with it.
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
            f"No prompt variant matches “{value[:MAX_CHARACTERS]}”.",
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
    """Return the error of a variant whose embedding for this release, row, is missing or has failed."""
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
    """Return whether the encode worker will try this failed row again."""
    return row.error == ENCODE_AGAIN or row.error.startswith(ENCODER_UNAVAILABLE)


def fingerprints() -> list[str]:
    """Return the fingerprints of the encoders in use, those without files on this machine included."""
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
    """Return active variants that are to be encoded for this encoder, ordered by id, with ids above `after`."""
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
    """Return the active variants whose text this encoder has not refused, ordered by slug."""
    refused = Embedding.objects.filter(
        variant=OuterRef("pk"),
        revision=OuterRef("revision"),
        encoder_fingerprint=encoder_fingerprint,
        data__isnull=True,
    ).exclude(Q(error=ENCODE_AGAIN) | Q(error__startswith=ENCODER_UNAVAILABLE))
    return PromptVariant.objects.filter(
        ~Exists(refused), status=PromptVariant.Status.ACTIVE
    ).order_by("slug")


# Computed by PostgreSQL: the data of an embedding has about 100 KB.
_SHA256_OF_DATA = Func(
    Coalesce("data", Value(b"")),
    template="encode(sha256(%(expressions)s), 'hex')",
    output_field=CharField(),
)


def encode_again(variants: QuerySet[PromptVariant]) -> int:
    """Have failed and damaged embeddings of these variants encoded again. Return the number of rows.

    Intact rows stay: encoding is deterministic and jobs refer to them. Missing ones are encoded too.
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
        log.info("encode_again", marked=marked, damaged=len(damaged))
        publish_encode()
    return marked
