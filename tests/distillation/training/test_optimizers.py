"""The optimiser decays matrices and kernels alone, and an update applies the clipped gradient of one loss."""

import pytest
import torch

from distillation.training.optimizers import adamw, muon, update


def test_matrices_and_kernels_decay_and_norms_and_biases_do_not():
    network = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3), torch.nn.GroupNorm(2, 4))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1.0)
            parameter.grad = torch.zeros_like(parameter)
    adamw(network, learning_rate=0.1, weight_decay=0.5).step()
    for name, parameter in network.named_parameters():
        expected = 0.95 if name == "0.weight" else 1.0
        assert torch.allclose(parameter, torch.full_like(parameter, expected)), name


def test_an_update_applies_the_clipped_gradient_and_gives_its_norm():
    network = torch.nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    for _ in range(2):  # the gradient of the update before does not add up
        torch.nn.init.zeros_(network.weight)
        norm = update(optimizer, network(torch.tensor([[3.0, 4.0]])).sum(), clipped_norm=1.0)
        assert norm == pytest.approx(5.0)
        assert torch.allclose(network.weight, torch.tensor([[-0.6, -0.8]]))


def test_an_update_leaves_no_gradients_in_memory():
    network = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    update(optimizer, network(torch.ones(1, 2)).sum(), clipped_norm=1.0)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_an_update_clips_over_all_groups_together():
    network = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD([{"params": [network.weight]}, {"params": [network.bias]}], lr=1.0)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    norm = update(optimizer, 3 * network.weight.sum() + 4 * network.bias.sum(), clipped_norm=1.0)
    assert norm == pytest.approx(5.0)
    moved = [old - new for old, new in zip(before, network.parameters(), strict=True)]
    assert moved[0].item() == pytest.approx(0.6)
    assert moved[1].item() == pytest.approx(0.8)


def test_muon_updates_a_kernel_evenly_in_all_directions_and_a_bias_as_adam_does():
    network = torch.nn.Conv2d(4, 8, 3)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    muon(network, learning_rate=0.1, weight_decay=0.0).step()
    kernel, bias = (
        (new - old).detach() for new, old in zip(network.parameters(), before, strict=True)
    )
    values = torch.linalg.svdvals(kernel.flatten(1))
    assert values.min() > 0.5 * values.max()
    assert kernel.square().mean().sqrt().item() == pytest.approx(0.02, rel=0.3)  # 0.2 · rate
    assert torch.allclose(bias.abs(), torch.full_like(bias, 0.1), atol=1e-3)


def test_muon_skips_frozen_parameters():
    network = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 1), torch.nn.Conv2d(2, 2, 1))
    network[0].requires_grad_(False)
    trained = [
        p
        for group in muon(network, learning_rate=1, weight_decay=0).param_groups
        for p in group["params"]
    ]
    assert {id(p) for p in trained} == {id(p) for p in network[1].parameters()}
