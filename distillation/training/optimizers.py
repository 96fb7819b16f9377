"""Makes the optimiser that trainings share. Knows no network in particular."""

import torch

from distillation.training import processes


def adamw(
    network: torch.nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
    fused: bool = False,
) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101); its decay is of matrices and kernels, not of norms and biases."""
    parameters = list(network.parameters())
    return torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=learning_rate,
        betas=betas,
        fused=fused,
    )


def update(optimizer: torch.optim.Optimizer, loss: torch.Tensor, *, clipped_norm: float) -> float:
    """One update from the mean of the loss over all processes; the norm of its gradient before it was clipped."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    processes.average_gradients(parameters)
    norm = torch.nn.utils.clip_grad_norm_(parameters, clipped_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)  # as large as the network, and nobody needs them now
    return float(norm)
