"""Both estimates find the spread of a posterior that is known."""

import pytest
import torch

from distillation.students.posterior import LARGEST, SMALLEST, Posterior, fisher, laplace


def linear_gradients(weights, rows, targets, noise):
    """Return a function for gradients of the mean negative log-likelihood of y = x·w + N(0, noise²)."""

    def gradients(batch):
        w = weights.clone().requires_grad_()
        loss = ((rows[batch] @ w - targets[batch]) ** 2).mean() / (2 * noise**2)
        return {"w": torch.autograd.grad(loss, w)[0]}

    return gradients


def regression(count=4000):
    torch.manual_seed(0)
    scales = torch.tensor([0.5, 1.0, 3.0])
    rows, truth = torch.randn(count, 3) * scales, torch.tensor([1.0, -1.0, 0.5])
    noise = 2.0
    targets = rows @ truth + noise * torch.randn(count)
    found = torch.linalg.lstsq(rows, targets[:, None]).solution[:, 0]
    return found, rows, targets, noise


@pytest.mark.parametrize("size", [1, 8])
def test_laplace_is_the_exact_posterior_of_a_linear_regression(size):
    found, rows, targets, noise = regression()
    information = fisher(
        linear_gradients(found, rows, targets, noise),
        torch.arange(len(rows)).split(size),
        examples_per_batch=size,
    )
    posterior = laplace({"w": found}, information, examples=len(rows), precision=0.1)
    precision = rows.T @ rows / noise**2 + 0.1 * torch.eye(3)
    assert torch.allclose(posterior.variance["w"], 1 / precision.diagonal(), rtol=0.15)
    assert torch.equal(posterior.mean["w"], found)


def test_variances_are_clipped():
    information = {"w": torch.tensor([0.0, 1e12])}
    posterior = laplace({"w": torch.zeros(2)}, information, examples=10, precision=0.0)
    assert posterior.variance["w"].tolist() == pytest.approx([LARGEST, SMALLEST])


def test_invalid_information_and_variances_are_refused():
    with pytest.raises(ValueError, match="at least one batch"):
        fisher(lambda batch: {}, [])
    with pytest.raises(ValueError, match="not finite"):
        fisher(lambda batch: {"w": torch.tensor([torch.inf])}, [0])
    with pytest.raises(ValueError, match="above 0"):
        Posterior({"w": torch.zeros(1)}, {"w": torch.zeros(1)})
    with pytest.raises(ValueError, match="lack a mean or a variance"):
        Posterior({"w": torch.zeros(1), "b": torch.zeros(1)}, {"w": torch.ones(1)})
