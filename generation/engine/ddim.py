"""DDIM over given timesteps (Song et al. 2020, eq. 12, η = 0), configured like diffusers' noise schedulers.

diffusers' DDIM steps to t − ⌊N ÷ steps⌋, which is the next timestep only for an even, whole spacing. Without importing
diffusers a generation worker for students starts seconds earlier.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from generation.engine.errors import ReleaseInvalid

COSINE_OFFSET, MAX_BETA = 0.008, 0.999  # of squaredcos_cap_v2: Nichol & Dhariwal 2021, eq. 17


class ExactDDIMScheduler:
    """The part of diffusers' scheduler interface that the pipeline uses."""

    init_noise_sigma = 1.0

    def __init__(self, config: Mapping[str, Any], timesteps: Sequence[int]) -> None:
        """config: `scheduler_config.json`. Raises ReleaseInvalid."""
        self.config = SimpleNamespace(prediction_type=config.get("prediction_type", "epsilon"))
        self.alphas_cumprod = _alphas_cumprod(config)
        self.timesteps = torch.tensor(list(timesteps))
        last = torch.tensor(1.0) if config.get("set_alpha_to_one", True) else self.alphas_cumprod[0]
        following = [self.alphas_cumprod[timestep] for timestep in timesteps[1:]] + [last]
        self._alpha_following = dict(zip(timesteps, following, strict=True))

    def scale_model_input(self, sample: Tensor, timestep: Any) -> Tensor:
        return sample

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, *, return_dict: bool = False
    ) -> tuple[Tensor]:
        alpha = self.alphas_cumprod[int(timestep)]
        alpha_following = self._alpha_following[int(timestep)]
        signal, noise = alpha.sqrt(), (1 - alpha).sqrt()
        if self.config.prediction_type == "epsilon":
            pred_epsilon = model_output
            pred_x0 = (sample - noise * model_output) / signal
        elif self.config.prediction_type == "v_prediction":
            pred_epsilon = signal * model_output + noise * sample
            pred_x0 = signal * sample - noise * model_output
        else:
            pred_epsilon = (sample - signal * model_output) / noise
            pred_x0 = model_output
        return (alpha_following.sqrt() * pred_x0 + (1 - alpha_following).sqrt() * pred_epsilon,)


def _alphas_cumprod(config: Mapping[str, Any]) -> Tensor:
    """Return ᾱ of each training timestep, fp32."""
    count = config.get("num_train_timesteps", 1000)
    start, end = config.get("beta_start", 0.0001), config.get("beta_end", 0.02)
    schedule = config.get("beta_schedule", "linear")
    if config.get("trained_betas") is not None:
        betas = torch.tensor(config["trained_betas"], dtype=torch.float32)
    elif schedule == "linear":
        betas = torch.linspace(start, end, count, dtype=torch.float32)
    elif schedule == "scaled_linear":
        betas = torch.linspace(start**0.5, end**0.5, count, dtype=torch.float32) ** 2
    elif schedule == "squaredcos_cap_v2":
        levels = [_cosine(number / count) for number in range(count + 1)]
        betas = torch.tensor(
            [min(1 - after / before, MAX_BETA) for before, after in pairwise(levels)]
        )
    else:
        raise ReleaseInvalid(
            f"scheduler/scheduler_config.json: beta_schedule is {schedule!r}. It must be linear, scaled_linear or "
            "squaredcos_cap_v2."
        )
    alphas = torch.cumprod(1 - betas, dim=0)
    if config.get("rescale_betas_zero_snr"):  # Lin et al. 2023, algorithm 1
        signal = alphas.sqrt()
        alphas = ((signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])) ** 2
    return alphas


def _cosine(share: float) -> float:
    angle = (share + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2
    return math.cos(angle) ** 2
