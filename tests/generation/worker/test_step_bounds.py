"""Bounds of a step's time."""

import pytest

from generation.jobs.throughput import Seconds
from generation.worker.step_bounds import step_bound


@pytest.mark.parametrize(
    ("measured", "images", "steps", "expected"),
    [
        ({}, 1, 4, 600.0),  # unknown: ten times STALL_SECONDS
        ({1: Seconds(1.0, 2.0)}, 1, 4, 60.0),  # 20 x 2 / 4 s is below the floor
        ({1: Seconds(10.0, 20.0)}, 1, 4, 100.0),
        ({1: Seconds(10.0, 20.0)}, 2, 4, 200.0),  # twice the images, twice the time
        ({1: Seconds(10.0, 20.0), 3: Seconds(20.0, 40.0)}, 2, 1, 600.0),  # between two numbers
    ],
    ids=["unknown", "floor", "measured", "extrapolated", "interpolated"],
)
def test_the_bound_of_a_step_is_twenty_times_its_usual_time_with_a_floor(
    settings, measured, images, steps, expected
):
    settings.STALL_SECONDS = 60

    assert step_bound(measured, images, steps=steps) == pytest.approx(expected)
