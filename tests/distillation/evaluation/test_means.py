import pytest
import torch

from distillation.evaluation import means
from distillation.evaluation.results import Pair


def test_a_mean_has_an_interval_over_prompts():
    prompts = torch.randn(50, 1, generator=torch.Generator().manual_seed(0))
    found = means.over_prompts(prompts.repeat(1, 9))
    once = means.over_prompts(prompts.flatten())
    assert found.value == pytest.approx(float(prompts.mean()), abs=1e-6)
    # Nine equal pictures of a prompt make the interval no narrower: about ± 2 ÷ √50.
    assert found.high - found.low == pytest.approx(once.high - once.low)
    assert found.high - found.low == pytest.approx(4 * float(prompts.std()) / 50**0.5, rel=0.15)


def test_prompts_without_a_value_are_left_out_of_means_and_pairs():
    student = torch.tensor([1.0, float("nan"), 0.0])
    teacher = torch.tensor([1.0, float("nan"), 1.0])
    both = means.both((student, teacher))
    assert both is not None and (both.student.value, both.teacher.value) == (0.5, 1.0)
    assert means.pairs((student, teacher), prompts=3) == [Pair(1, 1), None, Pair(0, 1)]
    assert means.both((student[1:2], teacher[1:2])) is None
    assert means.both(None) is None and means.pairs(None, prompts=2) == [None, None]
    with pytest.raises(ValueError, match="No prompt"):
        means.over_prompts(student[1:2])
