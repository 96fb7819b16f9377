import pytest
import torch

from distillation.losses.precision import wide


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_values_are_widened_to_fp32(dtype):
    assert wide(torch.ones(2, dtype=dtype)).dtype == torch.float32


def test_fp64_stays_fp64():
    assert wide(torch.ones(2, dtype=torch.float64)).dtype == torch.float64
