"""The optimisers that trainings share, and their update."""

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


def muon(
    network: torch.nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
) -> torch.optim.Optimizer:
    """Return Muon for matrices and kernels (Jordan et al. 2024), AdamW for biases and norms, which do not decay.

    A kernel is treated as a matrix [output channels, all other dimensions]. Updates have the scale of AdamW's (Liu et
    al. 2025, arXiv 2502.16982), so one learning rate fits both.
    """
    from pytorch_optimizer import Muon  # imports the optimisers of the whole package

    parameters = [part for part in network.parameters() if part.requires_grad]
    return Muon(
        [
            {"params": [p for p in parameters if p.ndim > 1], "use_muon": True},
            {"params": [p for p in parameters if p.ndim <= 1], "use_muon": False},
        ],
        lr=learning_rate,
        adamw_lr=learning_rate,
        adamw_betas=betas,
        weight_decay=weight_decay,
        use_adjusted_lr=True,
    )


def update(optimizer: torch.optim.Optimizer, loss: torch.Tensor, *, clipped_norm: float) -> float:
    """Make one update by the loss's mean over all processes; return the norm of the gradient before clipping."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    processes.average_gradients(parameters)
    norm = torch.nn.utils.clip_grad_norm_(parameters, clipped_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)  # as large as the network, and no longer needed
    return float(norm)
