import pytest

from distillation.evaluation.seeds import seeds_of
from tests.distillation.evaluation import toys


def test_each_prompt_has_seeds_of_its_own_whatever_else_is_measured():
    slugs = toys.prompts(3).slugs
    seeds = seeds_of(slugs, each=2)
    assert len({seed for row in seeds for seed in row}) == 6
    assert seeds_of(slugs[1:], each=2) == seeds[1:]
    assert [row[:1] for row in seeds_of(slugs, each=2, skip=1)] == [row[1:] for row in seeds]
    assert max(seed for row in seeds_of(map(str, range(500)), each=512) for seed in row) < 2**40


def test_the_seeds_of_a_run_are_new_and_the_same_when_it_is_resumed():
    slugs = toys.prompts(3).slugs
    core, first, second = (seeds_of(slugs, each=4, run=run) for run in ("", "run-1", "run-2"))
    assert first == seeds_of(slugs, each=4, run="run-1")
    for one, other in ((core, first), (core, second), (first, second)):
        assert {seed for row in one for seed in row}.isdisjoint(
            seed for row in other for seed in row
        )
    assert seeds_of(slugs[1:], each=4, run="run-1") == first[1:]


def test_invalid_numbers_of_seeds_are_refused():
    for each, skip in ((0, 0), (513, 0), (500, 13), (1, -1)):
        with pytest.raises(ValueError, match="seeds"):
            seeds_of(["a"], each=each, skip=skip)
