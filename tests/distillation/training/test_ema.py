"""The average starts quickly, follows the weights and never trains."""

import pytest
import torch

from distillation.training.ema import Ema


def network(value: float) -> torch.nn.Module:
    module = torch.nn.BatchNorm1d(2)
    with torch.no_grad():
        module.weight.fill_(value)
    return module


def test_the_first_updates_move_more_than_the_decay_allows():
    module = network(0.0)
    ema = Ema(module, decay=0.9)
    with torch.no_grad():
        module.weight.fill_(1.0)
    ema.update()
    assert torch.allclose(ema.module.weight, torch.tensor(1 - 2 / 11))


def test_later_updates_use_the_decay():
    module = network(0.0)
    ema = Ema(module, decay=0.5)
    ema.updates = 1000
    with torch.no_grad():
        module.weight.fill_(1.0)
    ema.update()
    assert torch.allclose(ema.module.weight, torch.tensor(0.5))


def test_buffers_are_copied():
    module = network(1.0)
    ema = Ema(module)
    module.running_mean.fill_(3.0)
    ema.update()
    assert torch.equal(ema.module.running_mean, module.running_mean)


def test_the_copy_is_frozen_and_in_evaluation_mode():
    module = network(1.0)
    ema = Ema(module)
    assert not ema.module.training
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_an_invalid_decay_is_refused(decay):
    with pytest.raises(ValueError, match="decay"):
        Ema(network(1.0), decay=decay)
