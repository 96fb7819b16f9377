"""Intervals contain the variance of prompts and of trainings."""

import pytest
import torch

from distillation.method_comparison import intervals


def test_a_difference_is_paired_by_training_and_by_prompt():
    torch.manual_seed(0)
    baseline = torch.rand(3, 50)
    found = intervals.difference(baseline + 0.1, baseline)
    assert list(found) == pytest.approx([0.1, 0.1, 0.1], abs=1e-6)


def test_trainings_that_differ_make_the_interval_wide():
    torch.manual_seed(0)
    prompts = torch.rand(1, 400)
    alike = intervals.mean(prompts.expand(3, -1))
    apart = intervals.mean(prompts + torch.tensor([[-0.2], [0.0], [0.2]]))
    assert apart.value == pytest.approx(alike.value, abs=1e-6)
    assert alike.high - alike.low < 0.1 < 0.3 < apart.high - apart.low


def test_prompts_without_a_value_are_left_out():
    values = torch.tensor([[1.0, float("nan"), 0.0], [1.0, float("nan"), 0.0]])
    assert intervals.mean(values).value == 0.5
    with pytest.raises(ValueError, match="No prompt"):
        intervals.mean(values[:, 1:2])
