import math

import pytest
import torch

from distillation.image_metrics import distances
from distillation.image_metrics.distances import CMMD, Measure, polynomial

KID = Measure(polynomial)


def features(count: int, *, shift: float = 0.0, seed: int = 0, width: int = 8) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) + shift


def by_hand(x: torch.Tensor, y: torch.Tensor, kernel) -> float:
    """Equation 3 of Gretton et al., term by term."""

    def within(s: torch.Tensor) -> float:
        pairs = [(i, j) for i in range(len(s)) for j in range(len(s)) if i != j]
        return sum(kernel(s[i], s[j]) for i, j in pairs) / len(pairs)

    across = sum(kernel(a, b) for a in x for b in y) / (len(x) * len(y))
    return within(x) + within(y) - 2 * across


def test_kid_is_the_unbiased_estimate_with_the_cubic_kernel():
    x, y = features(5).double(), features(7, seed=1, shift=0.5).double()
    expected = by_hand(x, y, lambda a, b: float((a @ b / 8 + 1) ** 3))
    assert KID(x, y) == pytest.approx(expected, rel=1e-9)


def test_cmmd_is_a_thousand_times_the_estimate_on_unit_features():
    x, y = features(5).double(), features(7, seed=1, shift=0.5).double()
    units = [s / s.norm(dim=1, keepdim=True) for s in (x, y)]
    kernel = lambda a, b: math.exp(-float(((a - b) ** 2).sum()) / 200)  # noqa: E731
    expected = 1000 * by_hand(*units, kernel)
    assert CMMD(*units) == pytest.approx(expected, rel=1e-6)


def test_two_samples_of_one_distribution_are_at_no_distance_on_average():
    found = [KID(features(20, seed=n), features(20, seed=100 + n)) for n in range(60)]
    error = torch.tensor(found).std() / len(found) ** 0.5
    assert abs(sum(found) / len(found)) < 3 * error
    assert min(found) < 0 < max(found)


def test_the_distance_grows_with_the_shift():
    x = features(50)
    shifts = [KID(x, features(50, seed=1, shift=shift)) for shift in (0.2, 0.6, 1.2)]
    assert shifts == sorted(shifts)


def test_the_bootstrap_encloses_the_value_and_not_a_biased_one():
    x, y = features(60), features(60, seed=1)
    found = distances.bootstrap(x, y, KID)
    assert found.value == KID(x, y)
    assert found.low < found.value < found.high
    # Compared with itself, every picture that is drawn twice would push all resamples above this.
    assert found.low < 0 < found.high


def test_the_bootstrap_is_narrower_with_more_pictures():
    def width(count: int) -> float:
        x, y = features(count), features(count, seed=1, shift=1)
        found = distances.bootstrap(x, y, CMMD)
        return found.high - found.low

    assert width(200) < 0.6 * width(20)


def test_the_bootstrap_is_deterministic():
    x, y = features(10), features(10, seed=1)
    assert distances.bootstrap(x, y, KID) == distances.bootstrap(x, y, KID)


def test_a_resample_of_one_picture_alone_is_left_out():
    found = distances.bootstrap(features(2), features(2, seed=1), KID)
    assert all(math.isfinite(value) for value in found)


def test_a_measure_scales_its_kernel():
    x, y = features(10), features(10, seed=1, shift=1)
    assert Measure(KID.kernel, 1000)(x, y) == pytest.approx(1000 * KID(x, y))


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(1, 4), torch.zeros(5, 4), "at least 2"),
        (torch.zeros(5, 4), torch.zeros(5, 3), r"\(n, d\)"),
        (torch.full((5, 4), math.nan), torch.zeros(5, 4), "not finite"),
    ],
)
def test_features_that_cannot_be_compared_are_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        KID(x, y)


def test_psnr_is_computed_for_each_picture():
    black = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    other = black.clone()
    other[0] += 255
    other[1, :, :2] += 51  # a fifth of the range, in half of the pixels
    expected = [0.0, 10 * math.log10(2 * 25)]
    assert distances.psnr(black, other).tolist() == pytest.approx(expected, abs=1e-4)
    assert distances.psnr(black, black).tolist() == [math.inf] * 2


def test_psnr_refuses_pictures_that_are_not_uint8():
    with pytest.raises(ValueError, match="uint8"):
        distances.psnr(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2))


def test_a_distance_is_of_the_cosine_and_separates_different_sets():
    x, y = features(40, width=16), features(40, width=16, seed=1)
    z = y + torch.tensor([2.0] + [0.0] * 15)
    x, y, z = (torch.nn.functional.normalize(s, dim=1) for s in (x, y, z))
    near, far = distances.distance(x, y), distances.distance(x, z)
    assert near.sizes == (40, 40)
    assert near.kid.low < 0 < near.kid.high and near.cmmd.low < 0 < near.cmmd.high
    assert far.kid.low > near.kid.high and far.cmmd.low > near.cmmd.high
    expected = 1000 * by_hand(x.double(), z.double(), lambda a, b: float((a @ b + 1) ** 3))
    assert far.kid.value == pytest.approx(expected, rel=1e-5)


# --- the same prompts and seeds -------------------------------------------------------------------
def same_noise(prompts: int, seeds: int, *, difference: float, shift: float = 0.0, seed: int = 0):
    """Unit features [P, S, 8] of two sets that differ by little at equal noise, and by `shift` everywhere."""
    generator = torch.Generator().manual_seed(seed)
    prompt, noise, own = (
        torch.randn(prompts, count, 8, generator=generator) for count in (1, seeds, seeds)
    )
    x = prompt + noise
    y = prompt + noise + difference * own + shift * torch.eye(8)[0]
    return torch.nn.functional.normalize(x, dim=2), torch.nn.functional.normalize(y, dim=2)


def test_a_paired_distance_is_not_reduced_by_the_noise_that_both_share():
    alike = [same_noise(10, 4, difference=0.01, seed=n) for n in range(10)]
    naive = [KID(x.flatten(0, 1), y.flatten(0, 1)) for x, y in alike]
    paired = [distances.paired_distance(x, y).kid.value for x, y in alike]
    assert sum(naive) / len(naive) < -0.001  # as if the sets were nearer than equal ones
    assert abs(sum(paired) / len(paired)) < 0.5  # × 1000


def test_a_paired_distance_sees_a_shift_beyond_its_interval():
    found = distances.paired_distance(*same_noise(30, 3, difference=0.1, shift=1.0))
    assert found.sizes == (90, 90)
    assert found.kid.low > 0 and found.kid.low < found.kid.value < found.kid.high
    assert found.cmmd.low > 0


def test_sets_of_different_prompts_are_not_paired():
    x, _ = same_noise(4, 2, difference=0)
    with pytest.raises(ValueError, match="P, S, d"):
        distances.paired_distance(x, x[:3])


# --- pictures -------------------------------------------------------------------------------------
def test_ssim_is_one_for_equal_pictures_and_falls_with_noise():
    generator = torch.Generator().manual_seed(0)
    slope = torch.linspace(0, 255, 32).expand(1, 3, 32, 32)
    waves = (slope + 40 * torch.sin(torch.arange(32.0))[:, None]).clamp(0, 255)
    a = waves.to(torch.uint8)
    noisy = [
        (waves + sigma * torch.randn(a.shape, generator=generator)).clamp(0, 255).to(torch.uint8)
        for sigma in (5, 20, 80)
    ]
    values = [float(distances.ssim(a, b)) for b in noisy]
    assert float(distances.ssim(a, a)) == pytest.approx(1)
    assert 1 > values[0] > values[1] > values[2] > -1


def test_ssim_of_flat_pictures_follows_the_formula():
    a, b = (torch.full((1, 3, 16, 16), value, dtype=torch.uint8) for value in (100, 120))
    c1 = 2.55**2
    expected = (2 * 100 * 120 + c1) / (100**2 + 120**2 + c1)
    assert float(distances.ssim(a, b)) == pytest.approx(expected, rel=1e-3)


def test_pictures_smaller_than_the_window_are_refused():
    a = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match="11 pixels"):
        distances.ssim(a, a)
