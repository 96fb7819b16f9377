"""Choice of the next candidate: the recipe first, none twice, more often within the limits."""

from dataclasses import replace

from distillation.design import sampler
from distillation.design.candidates import Candidate, Costs
from distillation.design.limits import Limits
from distillation.design.space import Space
from distillation.pipeline.recipes import ONE_STEP
from tests.distillation.design.candidates import PARAMS, candidate

WIDTHS = ("1", "3/4", "1/2", "1/4")
SPACE = Space(
    ONE_STEP,
    {name: (value,) for name, value in PARAMS.items()} | {"width": WIDTHS, "depth": (1, 2, 4)},
    frozenset(("tiny", width) for width in WIDTHS),
    8,
)


def search(
    space: Space,
    limits: Limits,
    costs: dict[str, float],
    most: int,
    seed: int = 1,
    startup: int = sampler.RANDOM,
) -> list[Candidate]:
    """Choose and measure at most `most` candidates. costs: size in MB by width."""
    found: list[Candidate] = []
    while len(found) < most and (
        params := sampler.choose(space, found, limits, seed=seed, startup=startup)
    ):
        size = Costs(round(costs[str(params["width"])] * 1e6), 0.01)
        one = replace(candidate(len(found), 0.5), params=params, costs=size)
        found.append(one if size.are_within(limits) else replace(one, rungs=()))
    return found


def test_the_recipe_is_first_and_everything_is_tried_once():
    found = search(SPACE, Limits(), dict.fromkeys(WIDTHS, 1.0), 100)

    assert found[0].params == SPACE.first()
    assert len(found) == len({(one.params["width"], one.params["depth"]) for one in found}) == 12


def test_the_same_candidates_lead_to_the_same_choice():
    found = search(SPACE, Limits(), dict.fromkeys(WIDTHS, 1.0), 5)

    again = [sampler.choose(SPACE, found, Limits(), seed=1) for _ in range(2)]
    assert again[0] == again[1] is not None


def test_candidates_over_a_limit_become_rarer():
    space = replace(SPACE, axes=SPACE.axes | {"channels": tuple(range(32, 72, 4))})
    sizes = dict(zip(WIDTHS, (8.0, 6.0, 4.0, 2.0), strict=True))
    limits = Limits(size=2_500_000)
    later = [
        one.costs.are_within(limits)
        for seed in (0, 1000, 2000)
        for one in search(space, limits, sizes, 40, seed=seed)[15:]
    ]

    assert sum(later) / len(later) > 0.38  # a quarter of the space is within


def test_with_fewer_random_ones_the_model_proposes_earlier():
    space = replace(SPACE, axes=SPACE.axes | {"channels": tuple(range(32, 72, 4))})
    sizes = dict(zip(WIDTHS, (8.0, 6.0, 4.0, 2.0), strict=True))
    limits = Limits(size=2_500_000)

    def within(startup: int) -> int:
        return sum(
            one.costs.are_within(limits)
            for seed in range(0, 20_000, 1000)
            for one in search(space, limits, sizes, 8, seed=seed, startup=startup)[2:]
        )

    assert within(2) > 1.2 * within(8)


def test_candidates_of_other_processes_and_refused_ones_are_not_chosen_again():
    waiting = replace(candidate(0), costs=None)
    refused = replace(candidate(1, depth=2), costs=None, refused="why")
    found = sampler.choose(SPACE, [waiting, refused], Limits(), seed=1)

    assert found is not None and found not in (waiting.params, refused.params)
