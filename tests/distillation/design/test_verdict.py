"""The verdict on a choice: factors at equal quality, points at equal time, each with the interval of paired prompts."""

from dataclasses import replace

import pytest
import torch

from distillation.design import rungs, verdict
from distillation.design.candidates import Costs, Judged
from tests.distillation.design.candidates import candidate

COSTS = Costs(8_000_000, 0.010)


def judged(*right: int, each: int = 8) -> Judged:
    return replace(candidate(0, 0.9).rungs[0], right=right, each=each)


ALIKE = judged(*[6] * 64)
BETTER = judged(*[7, 6] * 32)  # 6 points more


def said(costs: Costs, ours: Judged, other: Judged = ALIKE) -> str:
    return verdict.of((costs, ours), (COSTS, other)).sentence


@pytest.mark.parametrize(
    ("costs", "ours", "sentence"),
    [
        (Costs(8_000_000, 0.006), ALIKE, "It is better: 1.67 times faster at equal quality."),
        (Costs(4_000_000, 0.010), ALIKE, "It is better: 2.00 times smaller at equal quality."),
        (Costs(8_000_000, 0.011), BETTER, "It is better: 6.2 points better at equal time."),
        (Costs(4_000_000, 0.010), BETTER,
         "It is better: 2.00 times smaller at equal quality and 6.2 points better at equal time."),
    ],
)  # fmt: skip
def test_a_choice_is_better_by_a_factor_at_equal_quality_or_by_points_at_equal_time(
    costs, ours, sentence
):
    assert said(costs, ours) == sentence


@pytest.mark.parametrize(
    ("costs", "ours"),
    [
        (Costs(6_000_000, 0.007), ALIKE),  # 1.33 and 1.43 times
        (Costs(4_000_000, 0.005), judged(*[5, 6] * 32)),  # 6 points less
        (Costs(8_000_000, 0.012), BETTER),  # slower
        (Costs(8_000_000, None), BETTER),
        (Costs(8_000_000, 0.010), judged(*[8] * 20, *[5] * 44)),  # the interval reaches below 0
        (Costs(4_000_000, 0.005), judged(*[8] * 20, *[5] * 44)),
    ],
)
def test_a_choice_that_is_not_shown_to_be_better_is_told_the_rule(costs, ours):
    found = said(costs, ours)
    assert found.startswith("It is not shown to be better.") and "1.5 times" in found


def test_the_interval_is_of_the_differences_of_paired_prompts():
    """The prompts differ much, and the two students hardly."""
    hard, easy = [1, 8] * 32, [2, 8] * 32
    found = verdict.of((COSTS, judged(*easy)), (COSTS, judged(*hard)))
    assert found.points is not None and found.points.value == pytest.approx(6.25)
    assert 3 < found.points.low < 6.25 < found.points.high < 10


def test_the_best_of_several_equal_candidates_is_seldom_better_by_chance():
    generator = torch.Generator().manual_seed(0)

    def drawn(rates: torch.Tensor) -> Judged:
        right = torch.rand(64, 8, generator=generator) < rates[:, None]
        return judged(*right.sum(1).tolist())

    better = 0
    for _ in range(100):
        rates = 0.5 + torch.rand(64, generator=generator) / 2
        best = max((drawn(rates) for _ in range(6)), key=lambda one: sum(one.right))
        found = verdict.of((COSTS, best), (COSTS, drawn(rates)), chosen_from=6)
        better += bool(found.reasons)
    assert better <= 5


def test_rungs_with_other_numbers_of_pictures_are_compared_by_shares():
    found = verdict.of((COSTS, judged(*[12] * 64, each=16)), (COSTS, ALIKE))
    assert found.points == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("other", [judged(), judged(*[6] * 63), judged(*[6] * 19)])
def test_without_the_same_prompts_nothing_is_known(other):
    ours = other if len(other.right) == 19 else ALIKE
    assert "not known" in said(Costs(1_000_000, 0.001), ours, other)


def test_prompts_that_state_nothing_are_not_counted():
    right = torch.tensor([[1.0, 0.0], [float("nan"), float("nan")], [1.0, 1.0]])
    assert rungs._counts(right) == (1, 2)
