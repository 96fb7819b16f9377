"""Correction of mistyped words in a search."""

import pytest

from generation.page import choices, spelling
from tests.factories import make_user, make_variant

KNOWN = ["a", "red", "glass", "vase", "on", "wooden", "table", "ball", "bowl", "blue", "plastic"]


@pytest.mark.parametrize(
    ("typed", "meant", "is_typo"),
    [
        ("red galss vase", "red glass vase", True),
        ("blu vasse", "blu vase", True),  # blu is the beginning of a word
        ("bleu vase", "blue vase", True),
        ("red plastik", "red plastic", False),  # another letter may be another word
    ],
)
def test_unknown_words_are_corrected(typed: str, meant: str, is_typo: bool):
    words = typed.split()
    corrected = spelling.correct(words, KNOWN)
    assert corrected == meant.split()
    assert spelling.are_typos(words, corrected) is is_typo


def test_a_word_without_a_similar_one_is_not_corrected():
    assert spelling.correct(["red", "elephant"], KNOWN) is None


@pytest.mark.django_db
def test_a_typo_is_corrected_and_a_guess_is_only_offered():
    for text in ("a red glass vase", "a red plastic ball", "a blue bowl"):
        make_variant(text=text)
    owner = make_user()
    found = choices.search("red galss vase", (), owner=owner)
    assert (found.meant, found.chosen and found.chosen.text) == (
        "red glass vase",
        "a red glass vase",
    )
    assert found.is_wording
    found = choices.search("red plastik", (), owner=owner)
    assert (found.meant, found.chosen) == ("red plastic", None)
    assert [variant.text for variant in found.variants] == ["a red plastic ball"]
    assert choices.search("red galss vase", (), owner=owner, is_own_text=True).chosen is None
    for text in ("glass", "elephant"):
        assert choices.search(text, (), owner=owner).meant == ""
