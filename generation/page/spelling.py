"""Correction of mistyped words in a search, by the words of the catalogue's texts."""

from collections.abc import Collection, Sequence
from difflib import get_close_matches

from django.db.models import F, Func, Value

from generation.catalogue.objections import is_typo
from generation.catalogue.tags import Unnest
from generation.models import PromptVariant

ALIKE = 0.74  # cutoff of difflib's ratio: allows one replaced letter of four, two of eight


def vocabulary() -> list[str]:
    """Return the words of all active prompt variants."""
    words = Func(F("normalized_text"), Value(" "), function="string_to_array")
    rows = PromptVariant.objects.filter(status=PromptVariant.Status.ACTIVE).order_by()
    return sorted(rows.values_list(Unnest(words), flat=True).distinct())


def correct(words: Sequence[str], known: Collection[str]) -> list[str] | None:
    """Replace each word that is not part of a known word by the nearest known one. None if a word has none near."""
    corrected = []
    for word in words:
        if not any(word in other for other in known):
            near = _nearest(word, known)
            if near is None:
                return None
            word = near
        corrected.append(word)
    return corrected


def _nearest(word: str, known: Collection[str]) -> str | None:
    """Return the nearest known word, or None. One that differs by a typo is preferred."""
    near = get_close_matches(word, known, n=3, cutoff=ALIKE)
    return next((other for other in near if is_typo(word, other)), near[0] if near else None)


def are_typos(words: Sequence[str], corrected: Sequence[str]) -> bool:
    """Return whether each correction only moves, adds or removes a letter."""
    return all(
        word == other or is_typo(word, other) for word, other in zip(words, corrected, strict=True)
    )
