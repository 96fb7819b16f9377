"""A method is called better or worse only where its trainings agree."""

import pytest

from distillation.image_metrics.distances import Interval
from distillation.method_comparison.report import Line, opening

SOME = Interval(0.8, 0.7, 0.9)


def line(change: Interval | None, *changes: float, method: str = "mmd") -> Line:
    rights = tuple(0.8 for _ in changes)
    return Line(method, "", 100, SOME, change, SOME, rights, changes, None)


@pytest.mark.parametrize(
    ("change", "changes", "verdict"),
    [
        (None, (), "baseline"),
        (Interval(0.05, 0.01, 0.09), (0.04, 0.06), "better"),
        (Interval(0.05, 0.01, 0.09), (0.11, -0.01), "not told apart"),
        (Interval(0.05, 0.01, 0.09), (0.05,), "not told apart"),
        (Interval(0.05, -0.01, 0.09), (0.04, 0.06), "not told apart"),
        (Interval(-0.05, -0.09, -0.01), (-0.04, -0.06), "worse"),
        (Interval(-0.05, -0.09, -0.01), (-0.11, 0.01), "not told apart"),
    ],
)
def test_a_verdict_needs_an_interval_without_0_and_trainings_that_agree(change, changes, verdict):
    assert line(change, *changes).verdict == verdict


def test_the_opening_names_each_method_under_its_verdict():
    table = [
        line(Interval(0.05, 0.01, 0.09), 0.04, 0.06, method="guidance"),
        line(None, method="squared"),
        line(Interval(0.0, -0.02, 0.02), 0.01, -0.01),
    ]
    text = opening(table)
    assert text == (
        "Better than plain squared error: guidance. Not told apart from plain squared error: mmd."
    )
    assert opening([line(None)]) == "Only plain squared error was trained."
