"""What the words of a text say against a prompt variant, where a text encoder hears no difference. Knows no vectors.

Vectors of CLIP's kind put "not a red vase", "two red vases" and "a red vase under a table" beside "a red vase on a
table", and read a word that the tokenizer has to spell as little more than noise (docs/experiments.md has the numbers).
A refusal is better than a wrong picture, so words may object to a match, and never make one.
"""

import re
from collections.abc import Callable, Container

# They join what is in a picture, and say nothing that is to be seen.
JOINING = frozenset(("a", "an", "the", "of", "in", "on", "with", "and", "is", "are"))
NEGATIONS = "no not never none nor neither nothing without except minus lacking missing absent"
NUMBERS = "one two three four five six seven eight nine ten dozen pair several many few"
PLACES = (
    "under below beneath underneath behind above over before beside near far left right top bottom inside outside "
    "between against around off beyond opposite"
)
# Barely heard by such encoders: both texts have the word, or neither. They are English; nothing is known of others.
BARELY_HEARD = frozenset(f"{NEGATIONS} {NUMBERS} {PLACES}".split())

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def plain(text: str) -> str:
    """Without punctuation, which moves a vector and no meaning; "" of a text that is nothing else."""
    return " ".join(_WORD.findall(text))


def words(text: str) -> list[str]:
    """Of a normalised text, without punctuation; "isn't" is "not"."""
    found = _WORD.findall(text.replace("’", "'"))
    return ["not" if word.endswith("n't") else word for word in found]


def objection(
    asked: str, text: str, *, vocabulary: Container[str], is_spelt: Callable[[str], bool]
) -> str:
    """Why the variant of this text is not what was asked for; "" if no word says so. Both texts are normalised.

    vocabulary: the words of the whole catalogue: one of them that the variant lacks is what tells others from it.
    is_spelt: whether the tokenizer has no token of its own for a word.
    """
    here, there = words(asked), words(text)
    for word in sorted(set(here) ^ set(there)):
        if word in BARELY_HEARD or word.isdecimal():
            return f"only one of the two says “{word}”"
    lacking = [word for word in there if word not in here]
    for word in here:
        if word in there or word in JOINING:
            continue
        if word in vocabulary:
            return f"it does not say “{word}”"
        slip = next((other for other in lacking if is_slip(word, other)), None)
        if slip:
            lacking.remove(slip)
        elif is_spelt(word):
            return f"the text encoder does not know “{word}”"
    return ""


def is_slip(word: str, meant: str) -> bool:
    """Whether a letter is missing or too many, or letters are swapped; one for another makes "gloss" of "glass"."""
    if word[0] != meant[0]:
        return False
    short, long = sorted((word, meant), key=len)
    if len(short) == len(long):
        return sorted(short) == sorted(long)
    return any(long[:place] + long[place + 1 :] == short for place in range(len(long)))
