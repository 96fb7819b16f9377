"""Rules of texts and tags, and the messages of refusals."""

import pytest

from generation.catalogue import text_rules
from generation.engine.prompts.texts import normalize
from generation.errors import PromptInvalid
from tests.factories import make_release, make_variant

pytestmark = pytest.mark.django_db

TWELVE = "one two three four five six seven eight nine ten eleven twelve"


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("  A  Red\tVase\n", "a red vase"),
        ("Ａ ＲＥＤ vase", "a red vase"),  # full width
        ("Straße", "strasse"),
        ("cafe\u0301", "caf\u00e9"),  # a combining accent
        ("ﬁne\u00a0glass", "fine glass"),  # a ligature and a no-break space
    ],
)
def test_case_spaces_and_unicode_forms_are_normalised(text, normalized):
    assert normalize(text) == normalized
    assert normalize(normalized) == normalized


def test_up_to_twelve_words_are_allowed():
    assert text_rules.validate_text(TWELVE) == TWELVE


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (f"{TWELVE} thirteen", "13 words; at most 12"),
        ("", "is empty"),
        (" \t ", "is empty"),
        ("x" * 301, "301 characters; at most 300"),
        ("a red\x00vase", "control character"),
    ],
)
def test_a_refusal_of_a_text_has_the_count(text, complaint):
    with pytest.raises(PromptInvalid, match=complaint) as refused:
        text_rules.validate_text(text)
    assert refused.value.parameter == "text"


def test_a_text_that_the_encoder_would_truncate_is_refused_with_count_and_limit(encoder):
    assert text_rules.validate_text("a red glass vase")
    with pytest.raises(
        PromptInvalid, match=r"has \d\d tokens; .* of with-encoder accepts at most 16"
    ):
        text_rules.validate_text("incomprehensibilities photosynthesised")


def test_without_an_encoder_only_the_words_are_checked():
    assert text_rules.validate_text("incomprehensibilities photosynthesised")


def test_an_encoder_on_another_machine_does_not_prevent_edits():
    make_release(name="elsewhere", has_encoder=True, path="/nowhere/at-all")
    assert text_rules.validate_text("incomprehensibilities photosynthesised")


def test_a_text_of_another_variant_is_refused_with_its_slug():
    make_variant(slug="vase", text="a red vase")
    with pytest.raises(PromptInvalid, match="“vase” already has this text"):
        text_rules.validate_text("Ａ red  VASE")


def test_a_variant_may_keep_its_own_text():
    variant = make_variant(slug="vase", text="a red vase")
    assert text_rules.validate_text("A red vase", pk=variant.pk) == "a red vase"


def test_a_tag_and_its_contrary_contradict_each_other():
    assert text_rules.tidy_tags(["red", "not-blue"]) == ["red", "not-blue"]
    for tags in (["red", "not-red"], ["not-red", "blue", "red"]):
        with pytest.raises(PromptInvalid, match="contradict"):
            text_rules.tidy_tags(tags)


def test_tags_are_normalised_and_contain_no_separator():
    assert text_rules.tidy_tags([" still  life", "", "still life", "glass"]) == [
        "still life",
        "glass",
    ]
    for bad in ("a,b", "a|b", "x" * 61):
        with pytest.raises(PromptInvalid, match="not allowed"):
            text_rules.tidy_tags([bad])
