import pytest
import torch
from torch.nn import functional

from distillation.detector.network import Detector, DetectorConfig
from distillation.image_metrics import perceptual_distance

CONFIG = DetectorConfig(("a", "b"), (2,), image_size=32, widths=(4, 8, 8), depths=(0, 1, 2))


def pictures(count: int, *, size: int = 32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    return (255 * functional.interpolate(coarse, (size, size), mode="bilinear")).to(torch.uint8)


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    return Detector(CONFIG).eval().requires_grad_(False)


def test_the_distance_is_the_mean_over_layers_of_unit_features():
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, c, s, s, generator=generator) for c, s in ((3, 4), (5, 2))]
    a, b = perceptual_distance.vectors(maps).split(1)
    expected = 0.0
    for values in maps:
        x, y = functional.normalize(values, dim=1)
        expected += float(((x - y) ** 2).sum(0).mean()) / 2
    assert float(perceptual_distance.between(a, b)) == pytest.approx(expected, rel=1e-5)
    assert float(perceptual_distance.between(a, a)) == 0


def test_the_spread_is_the_mean_over_all_pairs():
    rows = perceptual_distance.vectors(
        [torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))]
    )
    pairs = [
        float(perceptual_distance.between(rows[i : i + 1], rows[j : j + 1]))
        for i in range(5)
        for j in range(i)
    ]
    assert perceptual_distance.spread(rows) == pytest.approx(sum(pairs) / 10, rel=1e-5)
    assert perceptual_distance.spread(rows[:1].repeat(4, 1)) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="two pictures"):
        perceptual_distance.spread(rows[:1])


def test_the_detector_gives_the_end_of_each_stage(detector: Detector):
    maps = perceptual_distance.of_detector(detector)(pictures(2))
    assert [tuple(values.shape) for values in maps] == [
        (2, 4, 16, 16),
        (2, 8, 8, 8),
        (2, 8, 4, 4),
    ]
    expected = detector.head(maps[-1].mean((2, 3)))
    assert torch.allclose(expected, detector.logits(pictures(2)), atol=1e-5)


def test_pictures_of_another_size_are_scaled(detector: Detector):
    maps = perceptual_distance.of_detector(detector)
    large = perceptual_distance.vectors(maps(pictures(1, size=64)))
    small = perceptual_distance.vectors(maps(pictures(1, size=32)))
    other = perceptual_distance.vectors(maps(pictures(1, size=32, seed=1)))
    assert perceptual_distance.between(large, small) < 0.2 * perceptual_distance.between(
        large, other
    )


def test_more_alike_pictures_are_nearer_and_spread_less(detector: Detector):
    maps = perceptual_distance.of_detector(detector)
    first, second = pictures(8), pictures(8, seed=1)

    def mixed(share: float) -> torch.Tensor:
        images = (1 - share) * first.float() + share * second.float()
        return perceptual_distance.vectors(maps(images.to(torch.uint8)))

    distances = [
        float(perceptual_distance.between(mixed(0), mixed(s)).mean()) for s in (0.1, 0.4, 1)
    ]
    assert distances == sorted(distances) and distances[0] > 0
    collapsed = (0.2 * first.float() + 0.8 * first[:1].float()).to(torch.uint8)
    assert perceptual_distance.spread(
        perceptual_distance.vectors(maps(collapsed))
    ) < 0.6 * perceptual_distance.spread(mixed(0))
