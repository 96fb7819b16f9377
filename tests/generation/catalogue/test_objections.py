"""Rules on words that reject a match, where the text encoder's vectors are too similar."""

import pytest

from generation.catalogue import objections

VASE = "a red glass vase on a wooden table"
VOCABULARY = set(objections.words("a an on red blue glass clay vase bowl wooden table linen cloth"))
KNOWN = VOCABULARY | set(objections.words("photo of the in with not under two crimson"))


def objection(requested: str, text: str = VASE) -> str:
    return objections.objection(
        requested, text, vocabulary=VOCABULARY, is_split=lambda word: word not in KNOWN
    )


@pytest.mark.parametrize(
    "requested",
    [
        "the red glass vase on the wooden table",
        "red glass vase, wooden table.",
        "a photo of a vase of red glass with a wooden table",
        "on a wooden table a glass vase in red",
        "a crimson glass vase on a wooden table",  # a word of the encoder's vocabulary: the vectors decide
        "a red glas vase on a wooden tabel",
        "a red glass vase on wooden tables",
    ],
)
def test_synonyms_are_no_objection(requested):
    assert objection(requested) == ""


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        ("not a red glass vase on a wooden table", "only one of the two texts has the word “not”"),
        (
            "a red glass vase that isn't on a wooden table",
            "only one of the two texts has the word “not”",
        ),
        (
            "a red glass vase that isn’t on a wooden table",
            "only one of the two texts has the word “not”",
        ),
        ("two red glass vases on a wooden table", "only one of the two texts has the word “two”"),
        ("3 red glass vases on a wooden table", "only one of the two texts has the word “3”"),
        ("a red glass vase under a wooden table", "only one of the two texts has the word “under”"),
        ("a red and blue glass vase on a wooden table", "it does not have the word “blue”"),
        ("a red glass vase and a bowl on a wooden table", "it does not have the word “bowl”"),
        ("a red glass vase on a linen cloth", "it does not have the word “linen”"),
        ("a red glass jug on a wooden table", "the text encoder does not know the word “jug”"),
        ("a red gloss vase on a wooden table", "the text encoder does not know the word “gloss”"),
        (
            "a red glass grass vase on a wooden table",
            "the text encoder does not know the word “grass”",
        ),
    ],
)
def test_a_distinguishing_word_is_an_objection(requested, expected):
    assert objection(requested) == expected


def test_a_negation_of_the_variant_must_be_in_the_request_too():
    assert objection("a vase with a bowl", "a vase without a bowl") != ""
    assert objection("the vase without the bowl", "a vase without a bowl") == ""


def test_two_typos_of_one_word_are_an_objection():
    assert objection("a red glas glaass vase on a wooden table") != ""


@pytest.mark.parametrize(
    ("word", "meant", "is_typo"),
    [
        ("glas", "glass", True),
        ("glasss", "glass", True),
        ("galss", "glass", True),
        ("vases", "vase", True),
        ("grass", "glass", False),
        ("lass", "glass", False),  # typos rarely concern the first letter
        ("string", "ring", False),
        ("vase", "vessel", False),
    ],
)
def test_a_typo_is_a_missing_additional_or_swapped_letter(word, meant, is_typo):
    assert objections.is_typo(word, meant) is is_typo


def test_punctuation_can_be_left_out():
    assert objections.plain("a vase, red; it isn't (very) big!") == "a vase red it isn't very big"
    assert objections.plain("!!!") == ""


def test_a_text_without_words_causes_no_objection_and_no_error():
    assert objection("!!! …") == ""
    assert objections.words("") == []
