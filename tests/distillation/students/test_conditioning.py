"""Conditioning agrees with brute force, and moves the weights that are left."""

import pytest
import torch

from distillation.students.conditioning import (
    Gaussian,
    condition,
    forget,
    remove,
    remove_by_blocks,
)


def gaussian(count: int, seed: int = 0) -> Gaussian:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(count, count, generator=generator, dtype=torch.float64)
    mean = torch.randn(count, generator=generator, dtype=torch.float64)
    return Gaussian(mean, root @ root.T + 0.5 * torch.eye(count))


def test_conditioning_agrees_with_the_density_on_a_grid():
    posterior = gaussian(2)
    found = condition(posterior, torch.tensor([1]), value=0.7)
    grid = torch.linspace(-30, 30, 200_001, dtype=torch.float64)
    points = torch.stack([grid, torch.full_like(grid, 0.7)], 1)
    density = torch.distributions.MultivariateNormal(posterior.mean, posterior.covariance)
    weights = density.log_prob(points).exp()
    mean = (weights * grid).sum() / weights.sum()
    variance = (weights * (grid - mean) ** 2).sum() / weights.sum()
    assert found.mean.item() == pytest.approx(mean.item(), abs=1e-6)
    assert found.covariance.item() == pytest.approx(variance.item(), rel=1e-6)


def test_removing_a_feature_of_a_regression_is_the_regression_without_it():
    torch.manual_seed(0)
    rows = torch.randn(40, 4, dtype=torch.float64)
    rows[:, 3] += 0.9 * rows[:, 1]  # what one knows the other can make up for
    targets = rows @ torch.tensor([1.0, 2.0, -1.0, 0.5], dtype=torch.float64)
    targets += 0.3 * torch.randn(40, dtype=torch.float64)

    def posterior_of(x):
        covariance = torch.linalg.inv(x.T @ x / 0.09 + 2 * torch.eye(x.shape[1]))
        return Gaussian(covariance @ x.T @ targets / 0.09, covariance)

    whole = posterior_of(rows)
    found = condition(whole, torch.tensor([3]))
    expected = posterior_of(rows[:, :3])
    assert torch.allclose(found.mean, expected.mean)
    assert torch.allclose(found.covariance, expected.covariance)
    assert (found.mean - whole.mean[:3])[1].abs() > 0.3  # the shift is real


def test_a_neuron_is_removed_by_its_outgoing_weights():
    posterior = gaussian(7)
    incoming, outgoing = torch.tensor([1, 4]), torch.tensor([6, 2])
    found = remove(posterior, zeroed=outgoing, forgotten=incoming)
    # by the precision matrix, in one order, then the marginal
    others = torch.tensor([0, 1, 3, 4, 5])
    precision = torch.linalg.inv(posterior.covariance)
    covariance = torch.linalg.inv(precision[others][:, others])
    shift = covariance @ precision[others][:, outgoing] @ posterior.mean[outgoing]
    left = torch.tensor([0, 2, 4])  # of others: 0, 3, 5
    assert torch.allclose(found.mean, (posterior.mean[others] + shift)[left])
    assert torch.allclose(found.covariance, covariance[left][:, left])


def test_the_order_of_removal_does_not_matter():
    posterior = gaussian(6)
    at_once = condition(posterior, torch.tensor([1, 4]))
    in_turn = condition(condition(posterior, torch.tensor([4])), torch.tensor([1]))
    assert torch.allclose(at_once.mean, in_turn.mean)
    assert torch.allclose(at_once.covariance, in_turn.covariance)


def test_a_weight_between_two_removed_neurons_is_conditioned():
    posterior = gaussian(4)
    both = remove(posterior, zeroed=torch.tensor([1]), forgotten=torch.tensor([1, 2]))
    expected = forget(condition(posterior, torch.tensor([1])), torch.tensor([1]))
    assert torch.allclose(both.mean, expected.mean)


def test_a_diagonal_covariance_only_loses_entries():
    diagonal = gaussian(5).covariance.diagonal()
    posterior = Gaussian(gaussian(5).mean, diagonal.diag())
    found = remove(posterior, zeroed=torch.tensor([0]), forgotten=torch.tensor([3]))
    left = [1, 2, 4]
    assert torch.equal(found.mean, posterior.mean[left])
    assert torch.equal(found.covariance, diagonal[left].diag())


def test_blocks_are_changed_each_on_its_own():
    blocks = {"a": gaussian(3), "b": gaussian(3, seed=1)}
    found = remove_by_blocks(blocks, zeroed={"a": torch.tensor([0])}, forgotten={})
    joint = Gaussian(
        torch.cat([block.mean for block in blocks.values()]),
        torch.block_diag(*(block.covariance for block in blocks.values())),
    )
    expected = condition(joint, torch.tensor([0]))
    assert torch.allclose(torch.cat([found["a"].mean, found["b"].mean]), expected.mean)
    assert not torch.allclose(found["a"].mean, blocks["a"].mean[1:])
    with pytest.raises(ValueError, match="no block 'c'"):
        remove_by_blocks(blocks, zeroed={"c": torch.tensor([0])}, forgotten={})


def test_a_singular_covariance_and_odd_indices_are_refused():
    flat = Gaussian(torch.zeros(2), torch.ones(2, 2))
    with pytest.raises(ValueError, match="positive definite"):
        condition(Gaussian(torch.zeros(3), torch.ones(3, 3)), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="twice"):
        condition(flat, torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="int64"):
        condition(flat, torch.tensor([True, False]))
    with pytest.raises(ValueError, match="covariance"):
        Gaussian(torch.zeros(2), torch.ones(3, 3))
