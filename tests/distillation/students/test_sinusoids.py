"""The teacher's sinusoids are sums of the student's, to the error that is stated."""

from fractions import Fraction

import pytest
import torch

from distillation.students import sinusoids

from .toys import SD15


@pytest.mark.parametrize(("share", "bound"), [("3/4", 1e-4), ("5/8", 1e-3), ("1/2", 0.02)])
def test_half_of_stable_diffusions_channels_carry_the_timestep(share, bound):
    fitted = sinusoids.fit(SD15, Fraction(share))
    narrower = int(320 * Fraction(share))
    of_teacher, _ = sinusoids.waves(SD15, 320, 0)
    of_student, _ = sinusoids.waves(SD15, narrower, fitted.freq_shift)
    error = (of_student @ fitted.mix.T - of_teacher).square().mean().sqrt()
    assert fitted.error == pytest.approx(float(error))
    assert fitted.error < bound
    assert fitted.mix.abs().max() < 20


@pytest.mark.parametrize("flip", [True, False])
def test_frequencies_that_both_have_are_kept_exactly(flip):
    fitted = sinusoids.fit(SD15.changed({"flip_sin_to_cos": flip}), Fraction(3, 4))
    for half in (0, 1):
        rows = fitted.mix[160 * half : 160 * half + 120, 120 * half : 120 * half + 120]
        assert torch.equal(rows, torch.eye(120, dtype=torch.float64))


def test_the_error_of_too_few_channels_is_stated():
    narrow = SD15.changed({"block_out_channels": [16, 16, 16, 16]})
    assert sinusoids.fit(narrow, Fraction(1, 4)).error > 0.3
