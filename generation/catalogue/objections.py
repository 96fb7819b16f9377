"""Rules on words that reject a match of two texts with similar vectors but different meanings.

CLIP-like encoders put "not a red vase", "two red vases" and "a red vase under a table" close to "a red vase on a
table", and map words that the tokenizer splits to little more than noise (figures in docs/experiments.md). A refusal is
better than a wrong image, so the rules can reject a match but never create one.
"""

import re
from collections.abc import Callable, Container

# Function words, which describe nothing visible.
JOINING = frozenset(("a", "an", "the", "of", "in", "on", "with", "and", "is", "are"))
NEGATIONS = "no not never none nor neither nothing without except minus lacking missing absent"
NUMBERS = "one two three four five six seven eight nine ten dozen pair several many few"
PLACES = (
    "under below beneath underneath behind above over before beside near far left right top bottom inside outside "
    "between against around off beyond opposite"
)
# Words with little effect on the vectors: both texts must have the word, or neither. English only.
BARELY_ENCODED = frozenset(f"{NEGATIONS} {NUMBERS} {PLACES}".split())

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def plain(text: str) -> str:
    """Return the text without punctuation, which changes the vector but not the meaning."""
    return " ".join(_WORD.findall(text))


def words(text: str) -> list[str]:
    """Return the words of a normalised text. "isn't" becomes "not"."""
    found = _WORD.findall(text.replace("’", "'"))
    return ["not" if word.endswith("n't") else word for word in found]


def objection(
    asked: str, text: str, *, vocabulary: Container[str], is_split: Callable[[str], bool]
) -> str:
    """Return why the variant's text does not match the requested text, or "". Both are normalised.

    vocabulary: the words of the whole catalogue. A requested word from it that the variant lacks means other variants.
    is_split: whether the tokenizer splits a word into several tokens.
    """
    here, there = words(asked), words(text)
    for word in sorted(set(here) ^ set(there)):
        if word in BARELY_ENCODED or word.isdecimal():
            return f"only one of the two texts has the word “{word}”"
    lacking = [word for word in there if word not in here]
    for word in here:
        if word in there or word in JOINING:
            continue
        if word in vocabulary:
            return f"it does not have the word “{word}”"
        slip = next((other for other in lacking if is_typo(word, other)), None)
        if slip:
            lacking.remove(slip)
        elif is_split(word):
            return f"the text encoder does not know the word “{word}”"
    return ""


def is_typo(word: str, meant: str) -> bool:
    """Return whether a letter is missing or extra, or letters are swapped. A replaced letter makes another word."""
    if word[0] != meant[0]:
        return False
    short, long = sorted((word, meant), key=len)
    if len(short) == len(long):
        return sorted(short) == sorted(long)
    return any(long[:place] + long[place + 1 :] == short for place in range(len(long)))
