"""Which prompts a sheet shows."""

import pytest

from distillation.evaluation.report import gallery


@pytest.mark.parametrize("count", [1, 7, 8, 9, 40, 256])
def test_all_are_different_and_there_are_as_many_as_fit(count):
    found = gallery.spread(count)
    assert found == sorted(set(found)) and len(found) == min(gallery.ROWS, count)
    assert all(0 <= place < count for place in found)


def test_a_catalogue_that_repeats_itself_is_not_shown_in_step():
    for period in (4, 8, 16, 32):
        assert len({place % period for place in gallery.spread(256)}) >= 3
    assert max(gallery.spread(256)) >= 192 and min(gallery.spread(256)) < 64
