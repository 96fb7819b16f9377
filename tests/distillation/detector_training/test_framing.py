import torch

from distillation.detector_training.framing import Framing


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_images_and_maps_move_together():
    """A picture that is its own mask stays so, up to the blur of the finer grid at its edges."""
    mask = torch.zeros(64, 1, 32, 32)
    mask[:, :, 8:24, 10:20] = 1
    images = mask.expand(-1, 3, -1, -1) * 2 - 1
    framed, maps = Framing()(images, mask, seeded())
    assert framed.shape == images.shape and maps.shape == mask.shape
    assert set(maps.unique().tolist()) == {0.0, 1.0}
    agrees = ((framed[:, :1] > 0) == (maps > 0.5)).float().mean()
    assert agrees > 0.97
    areas = maps.mean(dim=(1, 2, 3))
    assert areas.min() < 0.8 * mask.mean() and areas.max() > 1.3 * mask.mean()


def test_the_framing_depends_on_the_generator_alone():
    images, maps = torch.rand(4, 3, 16, 16), torch.rand(4, 2, 8, 8)
    first, second = (Framing()(images, maps, seeded(3)) for _ in range(2))
    assert first[0].equal(second[0]) and first[1].equal(second[1])
