"""Words that are unknown to a text encoder in use: its tokenizer splits them into several tokens.

The vectors of such words are little more than noise (figures in docs/experiments.md): the images show something else.
"""

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from generation.catalogue import objections, text_rules
from generation.engine.prompts import tokens
from generation.engine.prompts.texts import normalize

WITH_ONE_WORD = 3  # tokens: start, word, end
SHOWN = 10  # words that `sentence` lists


class Vocabulary:
    """Vocabulary of all encoders in use at the time of creation. Create one for many texts."""

    def __init__(self) -> None:
        self._folders = [limit.folder for limit in text_rules.limits()]

    def unknown(self, text: str, *, is_typed: bool = False) -> list[str]:
        """Return the distinct words of the text that are unknown to an encoder.

        is_typed: the text is being typed. Its last word is left out while it may be the beginning of a known one.
        """
        words = objections.words(normalize(text))
        is_unfinished = is_typed and bool(words) and text[-1].isalnum()
        if is_unfinished and self._is_unknown(words[-1]) and self._may_become_known(words[-1]):
            words.pop()
        return [word for word in dict.fromkeys(words) if self._is_unknown(word)]

    def _is_unknown(self, word: str) -> bool:
        return word not in objections.JOINING and any(
            _is_split(folder, word) for folder in self._folders
        )

    def _may_become_known(self, word: str) -> bool:
        return all(_is_beginning(folder, word) for folder in self._folders)

    def count(self, texts: Iterable[str]) -> dict[str, int]:
        """Return unknown word → number of texts with it, most frequent first."""
        return dict(Counter(word for text in texts for word in self.unknown(text)).most_common())


@lru_cache(maxsize=20_000)
def _is_split(folder: Path, word: str) -> bool:
    return tokens.count_tokens(folder, word) > WITH_ONE_WORD


@lru_cache(maxsize=20_000)
def _is_beginning(folder: Path, word: str) -> bool:
    return tokens.begins_a_token(folder, word)


def warning(text: str) -> str:
    """Return the warning about unknown words of a text that is being typed, or "" without such words."""
    if not text.strip():
        return ""
    found = Vocabulary().unknown(text[: text_rules.MAX_CHARACTERS], is_typed=True)
    return sentence(found) if found else ""


def sentence(words: Iterable[str]) -> str:
    """Return a warning about unknown words for people."""
    found = list(words)
    said = ", ".join(f"“{word}”" for word in found[:SHOWN]) + (" …" if len(found) > SHOWN else "")
    return (
        f"The text encoder does not know {said}: images will show something else. Use other words."
    )
