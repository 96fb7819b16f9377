import pytest

from distillation.evaluation.noninferiority import NON_INFERIOR, Verdict
from distillation.evaluation.report import number_format
from distillation.image_metrics.distances import Interval


def test_numbers_are_rounded_with_their_interval():
    assert number_format.percent(Interval(0.865, 0.8312, 0.8921)) == "86.5 % (83.1 to 89.2)"
    assert number_format.number(Interval(-0.0001, -1.25, 2), 2) == "0.00 (−1.25 to 2.00)"


@pytest.mark.parametrize(
    ("value", "text"), [(0.3, "+0.3"), (-0.3, "−0.3"), (0.0, "±0.0"), (-0.01, "±0.0")]
)
def test_a_change_has_a_sign(value: float, text: str):
    assert number_format.signed(value, 1) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.000412, "0.412 ms"), (0.0412, "41.2 ms"), (1.02, "1020 ms")]
)
def test_times_keep_three_digits(seconds: float, text: str):
    assert number_format.milliseconds(seconds) == text


def test_sizes_counts_and_durations_have_their_unit():
    assert [number_format.size(n) for n in (1_500, 2_345_678, 123_456_789)] == [
        "1.5 kB",
        "2.3 MB",
        "123 MB",
    ]
    assert (number_format.count(1, "step"), number_format.count(3, "step")) == ("1 step", "3 steps")
    assert (number_format.duration(42.3), number_format.duration(150)) == ("42 s", "2.5 min")
    assert (number_format.times(12.34, 1), number_format.times(456, 2)) == (
        "12.3 times",
        "228 times",
    )


def test_a_verdict_has_the_unit_of_its_measure():
    def written(measure: str, is_ratio: bool) -> str:
        verdict = Verdict(measure, is_ratio, 0.5, -0.1, None, None, 30, NON_INFERIOR)
        return number_format.of_verdict(verdict, verdict.estimate)

    assert written("worst_prompts", False) == "−10.0 points"
    assert written("clip_score", False) == "−0.10"
    assert number_format.of_verdict(Verdict("x", True, 1, None, None, None, 0, ""), None) == "–"
