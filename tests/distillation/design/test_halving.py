"""Successive halving: which candidate is trained next, up to which rung."""

from dataclasses import replace

import pytest

from distillation.design import halving
from distillation.design.limits import Limits
from tests.distillation.design.candidates import candidate


def next_of(candidates, *, is_adding=True, limits=None, wish="best", may=lambda number, rung: True):
    job = halving.next_job(candidates, limits or Limits(), wish, is_adding=is_adding, may=may)
    return None if job is None else (job.candidate.number, job.rung)


def test_the_best_third_of_a_rung_is_promoted_before_a_new_candidate_starts():
    judged = [candidate(number, quality) for number, quality in enumerate((0.5, 0.9, 0.7))]

    assert next_of(judged[:2]) is None
    assert next_of(judged) == (1, 1)
    assert next_of([*judged[:2], candidate(2)]) == (2, 0)
    promoted = [judged[0], candidate(1, 0.9, 0.95), judged[2]]
    assert next_of(promoted) is None


def test_without_new_candidates_the_best_one_is_trained_to_the_top_rung():
    found = [candidate(0, 0.5), candidate(1, 0.9)]
    rungs = []
    while (job := next_of(found, is_adding=False)) is not None:
        rungs.append(job)
        number, rung = job
        found[number] = candidate(number, *[0.9] * (rung + 1))

    assert rungs == [(1, 1), (1, 2), (1, 3)]


def test_candidates_over_a_limit_or_refused_are_never_trained():
    limits = Limits(size=8_000_000, time=0.010)
    over = [candidate(0, size=8.1), candidate(1, time=10.1), replace(candidate(2), refused="why")]

    assert next_of(over, limits=limits) is None
    assert next_of([*over, candidate(3, size=8, time=10)], limits=limits) == (3, 0)


def test_a_training_without_enough_time_is_skipped_for_a_shorter_one():
    found = [candidate(0, 0.5), candidate(1, 0.9), candidate(2, 0.7), candidate(3)]

    assert next_of(found, may=lambda number, rung: rung == 0) == (3, 0)
    assert next_of(found, may=lambda number, rung: False) is None


@pytest.mark.parametrize(("wish", "first"), [("best", 0), ("smallest", 2), ("fastest", 1)])
def test_the_wish_orders_the_candidates_that_none_dominates(wish, first):
    found = [
        candidate(0, 0.96, size=9, time=12),
        candidate(1, 0.95, size=8, time=5),
        candidate(2, 0.95, size=5, time=8),
        candidate(3, 0.60, size=9.5, time=13),  # worse than candidate 0 in everything
    ]
    order = [one.number for one in halving.ranked(found, wish, 0)]

    assert order[0] == first and order[-1] == 3


def test_of_candidates_with_quality_0_the_nearest_to_the_teacher_is_promoted():
    blank = [
        replace(one, rungs=(replace(one.rungs[0], quality=0.0, distance=distance),))
        for one, distance in zip(
            [candidate(n, 0.5) for n in range(3)], (1.2, 0.9, 1.3), strict=True
        )
    ]

    assert next_of(blank) == (1, 1)


def test_the_agreement_of_rungs_is_spearmans_correlation():
    same = [candidate(n, q, q + 0.1) for n, q in enumerate((0.5, 0.6, 0.7, 0.8))]
    turned = [candidate(n, q, 1 - q) for n, q in enumerate((0.5, 0.6, 0.7))]

    def quality(judged):
        return judged.quality

    assert halving.agreement(same, 0, quality) == (pytest.approx(1.0), 4)
    assert halving.agreement(turned, 0, quality) == (pytest.approx(-1.0), 3)
    mixed = [candidate(n, *pair) for n, pair in enumerate(((1, 1), (2, 3), (3, 2), (4, 4)))]
    assert halving.agreement(mixed, 0, quality) == (pytest.approx(0.8), 4)
    assert halving.agreement(same[:2], 0, quality) == (None, 2)
