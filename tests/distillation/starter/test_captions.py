from itertools import pairwise
from pathlib import Path

from distillation.starter import captions as grammar
from distillation.starter.words import ATTRIBUTES, COMBINATIONS, Combination

SHIPPED = Path(__file__).parents[3] / "generation" / "starter" / "catalogue.csv"


def test_the_first_caption_is_the_canonical_one() -> None:
    red = Combination("vase", "red", "clay", "cloth")
    orange = Combination("ring", "orange", "glass", "table")
    assert grammar.captions(red)[0] == "a red clay vase on a linen cloth"
    assert grammar.captions(orange)[0] == "an orange glass ring on a wooden table"


def test_every_combination_has_distinct_phrasings_of_at_most_twelve_words() -> None:
    for combination in COMBINATIONS:
        texts = grammar.captions(combination)
        assert len(set(texts)) == len(texts) >= 4
        for text in texts:
            words = text.split()
            assert len(words) <= 12
            for word in (combination.object, combination.colour, combination.material):
                assert word in words
            assert grammar.GROUND_PHRASES[combination.ground] in text


def test_no_two_combinations_share_a_caption() -> None:
    texts = [text for combination in COMBINATIONS for text in grammar.captions(combination)]
    assert len(set(texts)) == len(texts)


def test_articles_are_right() -> None:
    texts = [text for combination in COMBINATIONS for text in grammar.captions(combination)]
    texts += [p for a, words in ATTRIBUTES.items() for w in words for p in grammar.phrases(a, w)]
    for text in texts:
        words = text.split()
        for article, word in pairwise(words):
            if article in ("a", "an"):
                assert (article == "an") == (word[0] in "aeiou"), text


def test_phrases_describe_one_attribute() -> None:
    assert "something made of glass" in grammar.phrases("material", "glass")
    assert "on a marble slab" in grammar.phrases("ground", "slab")


def test_the_shipped_catalogue_is_the_generated_one(tmp_path: Path) -> None:
    grammar.write_catalogue(tmp_path / "catalogue.csv")
    assert (tmp_path / "catalogue.csv").read_bytes() == SHIPPED.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["catalogue.csv"]


def test_the_catalogue_has_every_object_in_every_colour_and_material_on_some_ground() -> None:
    chosen = grammar.catalogue()
    assert len({(c.object, c.colour, c.material) for c in chosen}) == len(chosen) == 256
    assert {c.ground for c in chosen} == set(ATTRIBUTES["ground"])
