import pytest

from generation.engine.proportions import Share, difference


def test_the_interval_is_wilsons():
    low, high = Share(81, 263).interval  # the example of Newcombe 1998, table I
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


def test_the_interval_of_a_difference_is_newcombes():
    low, high = difference(
        Share(56, 70), Share(48, 80)
    )  # first example of Newcombe 1998, table II, method 10
    assert (round(low, 4), round(high, 4)) == (0.0524, 0.3339)


def test_the_interval_at_zero_and_at_one_has_a_width_and_stays_within_zero_and_one():
    assert Share(0, 20).interval[0] == 0 < Share(0, 20).interval[1] < 0.2
    assert 0.8 < Share(20, 20).interval[0] < Share(20, 20).interval[1] == 1


@pytest.mark.parametrize(("count", "total"), [(0, 0), (3, 2), (-1, 2)])
def test_an_impossible_share_is_refused(count, total):
    with pytest.raises(ValueError):
        Share(count, total)
