"""The front, the choice with its reason, and the nearest points."""

from distillation.design import front
from distillation.design.limits import Limits
from tests.distillation.design.candidates import candidate

FOUND = [
    candidate(0, 0.97, size=8, time=12),
    candidate(1, 0.90, size=5, time=9),
    candidate(2, 0.90, size=6, time=10),  # candidate 1 is better
    candidate(3, 0.96, size=7.8, time=11.8),
    candidate(4, size=3, time=5),  # never trained
]


def test_the_front_has_only_candidates_that_none_dominates():
    assert [one.number for one in front.front(FOUND)] == [1, 3, 0]


def test_the_choice_meets_limits_and_wish_and_its_reason_names_the_binding_limit():
    limits = Limits(time=0.012, quality=0.95)
    found = front.choose(FOUND, limits, "smallest")

    assert (found.number, found.meets) == (3, True)
    assert "the smallest that meets all limits" in found.reason
    assert "the limit time binds (11.8 ms of 12 ms)" in found.reason
    assert "2.8 MB smaller (candidate 1) would cost 6.0 points" in found.reason
    assert front.choose(FOUND, limits, "best").number == 0


def test_without_a_limit_of_quality_the_smallest_as_good_as_the_best_is_chosen():
    assert front.choose(FOUND, Limits(), "smallest").number == 3
    wide = [
        candidate(one.number, one.last.quality, size=one.costs.size / 1e6, spread=0.1)
        for one in FOUND[:4]
    ]
    assert front.choose(wide, Limits(), "smallest").number == 1


def test_an_unreached_quality_gives_the_best_candidate_within_the_other_limits():
    found = front.choose(FOUND, Limits(size=6_000_000, quality=0.97), "smallest")

    assert (found.number, found.meets) == (1, False)
    assert "reached quality 0.97" in found.reason and "0.900 (0.880 to 0.920)" in found.reason


def test_limits_that_no_candidate_meets_give_the_nearest_ones_by_limit():
    limits = Limits(size=2_000_000, time=0.004)
    found = front.choose(FOUND, limits, "best")

    assert found.number is None
    assert "None of 5 measured candidates is within the limits" in found.reason
    assert "size: 3 MB for a limit of 2 MB (candidate 4)" in found.reason
    nearest = front.nearest(FOUND, Limits(size=2_000_000, time=0.010))
    assert [(one.name, one.number) for one in nearest] == [
        ("size", 4)
    ]  # it meets the limit of time
    assert front.nearest(FOUND, Limits(size=4_000_000, time=0.006)) == []


def test_the_reason_advises_more_hours_for_untrained_candidates_within_the_limits():
    assert "Give more hours" in front.choose([FOUND[4]], Limits(size=4_000_000), "best").reason
    assert front.choose([], Limits(), "best").reason == "No candidate could be measured."
