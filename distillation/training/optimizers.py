"""The optimiser that trainings share, and its update."""

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
    """Return AdamW (Loshchilov & Hutter, arXiv 1711.05101); matrices and kernels decay, norms and biases do not."""
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
    """Make one update from the loss's mean over all processes; return the norm of its gradient before clipping."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    processes.average_gradients(parameters)
    norm = torch.nn.utils.clip_grad_norm_(parameters, clipped_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)  # as large as the network, and no longer needed
    return float(norm)
