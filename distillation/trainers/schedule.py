"""Noise schedule that a teacher was trained with, and the conversion of its predictions.

x_t = α_t x₀ + σ_t ε. Timesteps are int64 [B], indexes into the training schedule; latents and predictions [B, C, h, w].
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from distillation.losses import predictions
from generation.engine import classes

CLEAN = -1  # the "timestep" after the last: x₀ itself


@dataclass(frozen=True)
class NoiseSchedule:
    """alphas, sigmas: fp64 [T], √ᾱ and √(1 − ᾱ); prediction_type: of the networks trained with it."""

    prediction_type: str
    alphas: Tensor
    sigmas: Tensor

    def __len__(self) -> int:
        return len(self.alphas)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "NoiseSchedule":
        """Make the schedule of a diffusers scheduler_config.json, of any noise scheduler; zero terminal SNR too."""
        squares = classes.make(DDIMScheduler, config).alphas_cumprod.double()
        return cls(config.get("prediction_type", "epsilon"), squares.sqrt(), (1 - squares).sqrt())

    def coefficients(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Return α and σ, fp64 [B]; those of CLEAN are 1 and 0."""
        is_clean = timesteps == CLEAN
        places = timesteps.clamp(min=0).to(self.alphas.device)
        alpha = self.alphas[places].masked_fill(is_clean.to(self.alphas.device), 1.0)
        sigma = self.sigmas[places].masked_fill(is_clean.to(self.sigmas.device), 0.0)
        return alpha.to(timesteps.device), sigma.to(timesteps.device)

    def noised(self, x0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return x_t, fp32."""
        alpha, sigma = (_spread(part, x0) for part in self.coefficients(timesteps))
        return alpha * x0.float() + sigma * noise.float()

    def converted(
        self,
        prediction: Tensor,
        latents: Tensor,
        timesteps: Tensor,
        *,
        target: str,
        source: str | None = None,
    ) -> Tensor:
        """Return `predictions.converted` at the timesteps, [B, C, h, w]. source: None = the schedule's own type."""
        alpha, sigma = self.coefficients(timesteps)
        return predictions.converted(
            prediction,
            latents,
            alpha=alpha,
            sigma=sigma,
            source=source or self.prediction_type,
            target=target,
        )

    def as_x0(self, prediction: Tensor, latents: Tensor, timesteps: Tensor) -> Tensor:
        """Return the clean latents that a prediction for x_t implies, fp32."""
        return self.converted(prediction, latents, timesteps, target="sample")

    def stepped(
        self, prediction: Tensor, latents: Tensor, timesteps: Tensor, following: Tensor
    ) -> Tensor:
        """Return x at timesteps `following` by a DDIM step (arXiv 2010.02502, eq. 12, η = 0) from x_t, fp32."""
        x0 = self.as_x0(prediction, latents, timesteps)
        noise = self.converted(prediction, latents, timesteps, target="epsilon")
        return self.noised(x0, noise, following)


def _spread(values: Tensor, latents: Tensor) -> Tensor:
    return values.to(latents.device, torch.float32).view((-1,) + (1,) * (latents.ndim - 1))
