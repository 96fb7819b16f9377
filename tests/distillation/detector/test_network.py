from pathlib import Path

import pytest
import torch

from distillation.detector import network
from distillation.detector.network import Detector, DetectorConfig, DetectorUnusable

CONFIG = DetectorConfig(
    bits=("round", "square", "red"), groups=(2, 1), image_size=16, widths=(4, 8), depths=(0, 1)
)


def make_detector() -> Detector:
    torch.manual_seed(0)
    detector = Detector(CONFIG)
    for module in detector.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as if it had been trained
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.normal_()
    return detector


def make_images(count: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator)


def test_the_network_returns_one_logit_per_bit_and_image() -> None:
    assert make_detector()(torch.zeros(5, 3, 16, 16)).shape == (5, 3)


def test_the_default_network_is_small() -> None:
    config = DetectorConfig(bits=tuple(f"bit {i}" for i in range(23)), groups=(8, 8, 4, 3))
    assert 1e6 < sum(p.numel() for p in Detector(config).parameters()) < 2e6


def test_an_image_is_judged_alike_alone_and_among_others() -> None:
    detector, images = make_detector().train(), make_images()
    together = detector.probabilities(images)
    alone = torch.cat([detector.probabilities(image[None]) for image in images])
    assert torch.allclose(together, alone, atol=1e-5)
    assert detector.training  # its mode is unchanged


def test_temperatures_flatten_the_probabilities() -> None:
    detector, images = make_detector(), make_images()
    detector.temperatures.fill_(1e6)
    assert torch.allclose(detector.probabilities(images), torch.tensor(0.5), atol=1e-3)


def test_a_loaded_detector_judges_as_the_saved_one(tmp_path: Path) -> None:
    detector, images = make_detector(), make_images()
    detector.temperatures.copy_(torch.tensor([0.5, 2, 3]))
    detector.thresholds.copy_(torch.tensor([0.1, 0.6, 0.9]))
    network.save(detector, tmp_path / "new")
    loaded = network.load(tmp_path / "new")
    assert loaded.config == CONFIG
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert loaded.probabilities(images).equal(detector.probabilities(images))
    assert loaded.thresholds.equal(detector.thresholds)
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


@pytest.mark.parametrize("broken", ["config.json", "model.safetensors"])
def test_a_damaged_folder_is_refused(tmp_path: Path, broken: str) -> None:
    network.save(make_detector(), tmp_path)
    path = tmp_path / broken
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2])
    with pytest.raises(DetectorUnusable, match="Train it again"):
        network.load(tmp_path)


def test_a_missing_or_unknown_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DetectorUnusable):
        network.load(tmp_path / "nowhere")
    network.save(make_detector(), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 9'))
    with pytest.raises(DetectorUnusable, match="version 9"):
        network.load(tmp_path)


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(1, 3, 16, 16),  # not bytes
        torch.zeros(3, 16, 16, dtype=torch.uint8),
        torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
    ],
)
def test_images_of_another_type_or_shape_are_refused(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="Scale them first"):
        make_detector().probabilities(images)


@pytest.mark.parametrize(
    "fields",
    [
        {"bits": (), "groups": ()},
        {"bits": ("a", "a"), "groups": (2,)},
        {"bits": ("a", "b"), "groups": (3,)},
        {"bits": ("a",), "groups": (1,), "widths": (4, 8), "depths": (1,)},
        {"bits": ("a",), "groups": (1,), "widths": (4, 8), "depths": (1, 0)},
        {"bits": ("a",), "groups": (1,), "image_size": 8},
    ],
)
def test_an_invalid_configuration_is_refused(fields: dict) -> None:
    with pytest.raises(ValueError):
        DetectorConfig(**fields)
