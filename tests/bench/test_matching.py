"""Queries of the matching benchmark: valid texts with a known meaning."""

from distillation.starter.captions import captions, catalogue
from tests.bench import matching


def test_the_queries_are_valid_and_the_same_each_time():
    variants = catalogue()[:20]
    queries = [*matching.rewordings(variants), *matching.texts_of_no_variant(variants)]
    assert queries == [*matching.rewordings(variants), *matching.texts_of_no_variant(variants)]
    assert all(1 <= len(one.text.split()) <= 12 for one in queries)
    assert {one.means for one in matching.rewordings(variants)} == set(range(20))
    assert {one.means for one in matching.texts_of_no_variant(variants)} == {None}


def test_texts_of_no_variant_are_captions_of_none():
    variants = catalogue()
    own = {text for variant in variants for text in captions(variant)}
    assert not own & {one.text for one in matching.texts_of_no_variant(variants)}
