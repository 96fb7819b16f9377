"""Normalisation of prompt texts for storage and for comparison."""

import unicodedata


def tidy(text: str) -> str:
    """Return the text for storage: single spaces, otherwise unchanged."""
    return " ".join(text.split())


def normalize(text: str) -> str:
    """Return the form for comparison: NFKC, case-folded, single spaces.

    NFKC is applied twice because case folding can undo it.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())
