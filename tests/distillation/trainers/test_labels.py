"""The term of labels pulls the student's pictures to the detector's classes of the teacher's."""

import math

import pytest
import torch

from distillation.detector.network import Detector, DetectorConfig
from distillation.trainers.labels import Labels, LabelsRecipe


def detector(groups=(2, 1)) -> Detector:
    bits = tuple(f"bit {number}" for number in range(sum(groups)))
    config = DetectorConfig(bits, groups, image_size=16, widths=(4, 8), depths=(0, 1))
    torch.manual_seed(3)
    made = Detector(config)
    made.temperatures.fill_(0.1)  # as a calibrated one of an untrained network's small logits
    return made.requires_grad_(False).eval()


def pictures(seed: int, size: int = 16) -> torch.Tensor:
    return torch.rand(5, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_term_is_the_softened_divergence_of_each_group():
    judge = detector()
    ours, theirs = pictures(1), pictures(2)
    found = Labels(LabelsRecipe(temperature=2.0), judge).loss(ours, theirs)

    z, v = (judge(part).double() / 0.1 / 2.0 for part in (ours, theirs))
    alone = torch.zeros(5, 1).double()  # of the absence of a bit that is a group of its own
    expected = []
    for bits in (lambda x: x[:, :2], lambda x: torch.cat([alone, x[:, 2:]], 1)):
        p, q = bits(v).softmax(1), bits(z).softmax(1)
        expected.append(2.0**2 * (p * (p / q).log()).sum(1).mean())
    assert found.item() == pytest.approx(float(sum(expected) / 2), rel=1e-3)
    assert Labels(LabelsRecipe(), judge).loss(ours, ours).item() == pytest.approx(0, abs=1e-6)


def test_the_gradient_reaches_the_students_pictures_alone_and_lowers_the_term():
    judge = detector()
    labels = Labels(LabelsRecipe(), judge)
    ours, theirs = pictures(1, size=32).requires_grad_(), pictures(2, size=32)
    before = labels.loss(ours, theirs)
    before.backward()
    assert ours.grad is not None and ours.grad.abs().max() > 0
    assert not any(parameter.requires_grad for parameter in judge.parameters())
    with torch.no_grad():
        step = 0.1 * float(before.detach()) / float(ours.grad.square().sum())
        assert labels.loss(ours - step * ours.grad, theirs) < before


@pytest.mark.parametrize("name", ["weight", "temperature"])
@pytest.mark.parametrize("value", [0.0, math.inf])
def test_an_invalid_recipe_is_refused_with_its_field(name, value):
    with pytest.raises(ValueError, match=f"^{name} "):
        LabelsRecipe(**{name: value})
