"""What the bench of matching asks for: texts that a client could send, and of which it knows what they mean."""

from distillation.starter.captions import captions, catalogue
from tests.bench import matching


def test_the_texts_are_such_as_may_be_asked_for_and_are_the_same_each_time():
    variants = catalogue()[:20]
    asked = [*matching.rewordings(variants), *matching.strangers(variants)]
    assert asked == [*matching.rewordings(variants), *matching.strangers(variants)]
    assert all(1 <= len(one.text.split()) <= 12 for one in asked)
    assert {one.means for one in matching.rewordings(variants)} == set(range(20))
    assert {one.means for one in matching.strangers(variants)} == {None}


def test_a_stranger_is_no_wording_of_a_variant():
    variants = catalogue()
    own = {text for variant in variants for text in captions(variant)}
    assert not own & {one.text for one in matching.strangers(variants)}
