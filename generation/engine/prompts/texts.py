"""Spelling of prompt texts: how a text is stored, and which two texts are the same."""

import unicodedata


def tidy(text: str) -> str:
    """Return the text as it is stored: the editor's letters, single spaces."""
    return " ".join(text.split())


def normalize(text: str) -> str:
    """Return the form in which equal texts are equal strings: NFKC, no case, single spaces.

    NFKC is applied twice because folding case can undo it.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())
