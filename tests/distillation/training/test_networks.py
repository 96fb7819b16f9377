"""The precision of passes on a CPU."""

import pytest
import torch

from distillation.training import networks


@pytest.mark.parametrize("has_instructions", [True, False])
@pytest.mark.parametrize("is_requested", [True, False])
def test_passes_are_in_bf16_if_it_is_requested_and_the_cpu_has_its_instructions(
    monkeypatch, has_instructions: bool, is_requested: bool
):
    monkeypatch.setattr(networks, "cpu_has_bf16", lambda: has_instructions)
    layer, values = torch.nn.Linear(2, 2), torch.ones(1, 2)

    with networks.autocast(is_bf16=is_requested):
        dtype = layer(values).dtype

    assert dtype == (torch.bfloat16 if has_instructions and is_requested else torch.float32)
