"""Rules of a variant's text, tags, notes and slug, for forms, imports and the API alike."""

import hashlib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import structlog
from django.utils.text import slugify

from generation.engine.errors import ReleaseInvalid
from generation.engine.prompts import tokens
from generation.engine.prompts.texts import normalize, tidy
from generation.errors import PromptInvalid
from generation.models import PromptVariant
from generation.releases import lifecycle as releases

log = structlog.get_logger(__name__)

MAX_WORDS = 12
MAX_CHARACTERS = 300
MAX_TAG_CHARACTERS = 60
MAX_NOTES_CHARACTERS = 5000
TAG_SEPARATORS = ",|"
NOT = "not-"  # prefix of a tag whose subject must not be in the picture


@dataclass(frozen=True)
class Limit:
    """Limit of a text encoder: the folder of its tokenizer, and its maximum of tokens including start and end."""

    release_name: str
    folder: Path
    max_tokens: int


def limits() -> list[Limit]:
    """Return the limit of every encoder in use whose tokenizer can be read. Call it once for many texts."""
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
    """Return the normalised text. Raises PromptInvalid if it has too many words, characters or tokens."""
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
    """Return the error for a text that another variant has."""
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
    """Return the tags without duplicates, in order. Raises PromptInvalid for forbidden or contradicting ones."""
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


def check_notes(notes: str, before: str = "") -> None:
    """Raise PromptInvalid if the notes are too long and differ from those `before`."""
    if len(notes) > MAX_NOTES_CHARACTERS and notes != before:
        raise PromptInvalid(
            f"The notes have {len(notes)} characters; at most {MAX_NOTES_CHARACTERS} are allowed.",
            parameter="notes",
        )


def slug_for(text: str, taken: Iterable[str] | None = None) -> str:
    """Return an unused slug made from the text. taken: used slugs; default: the catalogue's."""
    limit = 110  # leaves space for a number within the column's 120
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
