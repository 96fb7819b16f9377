"""Correction of mistyped words in a search, by the words of the catalogue's texts."""

from collections.abc import Collection, Sequence
from difflib import get_close_matches

from django.db.models import F, Func, Value

from generation.catalogue.objections import is_slip
from generation.catalogue.tags import Unnest
from generation.models import PromptVariant

ALIKE = 0.74  # difflib's ratio: one letter of four replaced, two of eight


def vocabulary() -> list[str]:
    """Return the words of all active prompt variants."""
    words = Func(F("normalized_text"), Value(" "), function="string_to_array")
    rows = PromptVariant.objects.filter(status=PromptVariant.Status.ACTIVE).order_by()
    return sorted(rows.values_list(Unnest(words), flat=True).distinct())


def correct(words: Sequence[str], known: Collection[str]) -> list[str] | None:
    """Return the words with the nearest known one for each that no known word contains; None if one has no such."""
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
    """Return the known word that is meant: rather one with a letter missing, extra or swapped than with another one."""
    near = get_close_matches(word, known, n=3, cutoff=ALIKE)
    return next((other for other in near if is_slip(word, other)), near[0] if near else None)


def are_slips(words: Sequence[str], corrected: Sequence[str]) -> bool:
    """Return whether each correction only moves, adds or removes a letter, so that the same word is meant."""
    return all(
        word == other or is_slip(word, other) for word, other in zip(words, corrected, strict=True)
    )
