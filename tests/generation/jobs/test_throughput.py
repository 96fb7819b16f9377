"""Measured times by batch size, and the batch size that is derived from them."""

import pytest

from generation.jobs import throughput
from generation.jobs.throughput import Measurements, Seconds


def curve(**seconds: float) -> dict[int, Seconds]:
    """A curve of these medians: n1=0.1 is 0.1 s for a batch of one."""
    return {int(name[1:]): Seconds(value, 2 * value) for name, value in seconds.items()}


@pytest.mark.parametrize(
    ("measured", "size"),
    [
        ({"n1": 0.040, "n8": 0.320}, 1),  # no gain: a batch has one image
        ({"n1": 0.010, "n4": 0.101, "n8": 0.111}, 1),  # batches are slower
        ({"n1": 0.050, "n8": 0.064}, 8),  # a device with free capacity
        ({"n1": 0.100, "n2": 0.104, "n4": 0.150, "n8": 0.290}, 4),  # fully used at four
        ({"n4": 0.100}, 1),  # a batch of one was never measured
        ({}, 8),
    ],
    ids=["flat", "slower", "room", "full", "unknown-one", "nothing"],
)
def test_a_batch_is_the_smallest_that_empties_a_queue_as_fast_as_any(measured, size):
    assert throughput.best(curve(**measured), 8) == size


def test_a_size_that_is_no_power_of_two_is_used_too():
    assert throughput.best(curve(n1=1.0, n6=1.2), 6) == 6


def test_the_time_is_interpolated_between_measured_sizes_and_proportional_outside():
    measured = curve(n2=0.2, n6=0.4)

    assert throughput.at(measured, 4) == Seconds(pytest.approx(0.3), pytest.approx(0.6))
    assert throughput.at(measured, 1) == Seconds(pytest.approx(0.1), pytest.approx(0.2))
    assert throughput.at(measured, 12) == Seconds(pytest.approx(0.8), pytest.approx(1.6))
    assert throughput.at({}, 4) is None


def test_the_largest_batch_is_tried_until_it_is_measured_and_again_after_a_time(monkeypatch):
    measured = Measurements()
    measured.record("1:64x64", 1, 0.01)
    for _ in range(throughput.TRIES - 1):
        measured.record("1:64x64", 4, 0.08)
    assert (measured.limit("1:64x64", 4), measured.limits(4)) == (4, {})

    measured.record("1:64x64", 4, 0.08)
    assert (measured.limit("1:64x64", 4), measured.limits(4)) == (1, {"1:64x64": 1})
    assert measured.limit("2:64x64", 4) == 4  # another release

    monkeypatch.setattr(throughput, "REMEASURED_SECONDS", 0)
    assert measured.limit("1:64x64", 4) == 4


def test_a_stored_measurement_is_read_unchanged():
    measured = Measurements()
    for seconds in (0.1, 0.1, 0.9):
        measured.record("1:64x64", 2, seconds)

    assert throughput.parse(measured.stored(), "1:64x64") == {2: Seconds(0.1, 0.9)}
    assert throughput.parse(measured.stored(), "1:32x32") == {}
