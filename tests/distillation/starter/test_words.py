"""Words, bits and held-out combinations."""

from distillation.starter.words import (
    ATTRIBUTES,
    BITS,
    COMBINATIONS,
    HELD_OUT,
    OBJECTS,
    TRAINED,
)


def test_every_combination_has_one_bit_of_each_attribute() -> None:
    assert len({combination.bits for combination in COMBINATIONS}) == len(COMBINATIONS) == 768
    for combination in COMBINATIONS:
        chosen = [word for word, is_set in zip(BITS, combination.bits, strict=True) if is_set]
        assert chosen == [
            combination.object,
            combination.colour,
            combination.material,
            combination.ground,
        ]


def test_a_tenth_is_held_out_and_every_word_occurs_in_training() -> None:
    assert len(HELD_OUT) == 80
    assert set(TRAINED) | HELD_OUT == set(COMBINATIONS)
    assert not set(TRAINED) & HELD_OUT
    for attribute, words in ATTRIBUTES.items():
        assert {getattr(combination, attribute) for combination in TRAINED} == set(words)
    held_out = [combination.object for combination in HELD_OUT]
    assert {held_out.count(word) for word in OBJECTS} == {10}
