"""Noise schedulers by name, restricted to exactly the timesteps of a manifest.

Timesteps are indexes into the training schedule. Use one object per batch: noise schedulers have state.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from diffusers.schedulers.scheduling_tcd import TCDScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

from generation.engine import classes
from generation.engine.errors import ReleaseInvalid


class ExactDDIMScheduler(DDIMScheduler):
    """DDIM (Song et al. 2020, eq. 12, η = 0) between the given timesteps.

    diffusers' own goes to t − ⌊N ÷ steps⌋, which is the next timestep only if the spacing is even and whole.
    """

    def set_exact(self, timesteps: Sequence[int]) -> None:
        self.timesteps = torch.tensor(timesteps)
        self.num_inference_steps = len(timesteps)
        following = [self.alphas_cumprod[t] for t in timesteps[1:]] + [self.final_alpha_cumprod]
        self._alpha_following = dict(zip(timesteps, following, strict=True))

    def step(self, model_output, timestep, sample, **_: Any) -> tuple[torch.Tensor]:  # type: ignore[no-untyped-def]
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


class ExactUniPCScheduler(UniPCMultistepScheduler):
    """UniPC on given timesteps; diffusers' own accepts only their number."""

    def set_exact(self, timesteps: Sequence[int]) -> None:
        self.set_timesteps(len(timesteps))
        sigmas = ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()[list(timesteps)]
        self.sigmas = torch.cat([sigmas, torch.zeros(1)]).float()
        self.timesteps = torch.tensor(timesteps)


# The manifest's timesteps are used unchanged: every option that would modify them is switched off.
_EXACT = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "final_sigmas_type": "zero",
}
_PLAIN = {"clip_sample": False, "thresholding": False}  # for pixels, wrong for latents
_CLASSES: dict[str, tuple[type, dict[str, Any]]] = {
    "ddim": (ExactDDIMScheduler, _PLAIN),
    "dpmsolver++": (
        DPMSolverMultistepScheduler,
        {**_EXACT, "thresholding": False, "algorithm_type": "dpmsolver++", "use_lu_lambdas": False},
    ),
    "unipc": (ExactUniPCScheduler, {**_EXACT, "thresholding": False}),
    "euler": (
        EulerDiscreteScheduler,
        {**_EXACT, "timestep_type": "discrete", "interpolation_type": "linear"},
    ),
    "lcm": (LCMScheduler, _PLAIN),
    "tcd": (TCDScheduler, _PLAIN),
}
NAMES = tuple(_CLASSES)
DRAWS_NOISE = ("lcm", "tcd")  # between steps, with the generators of the images


def make(name: str, config: dict[str, Any], timesteps: Sequence[int]) -> Any:
    """Return a new noise scheduler for one batch. config: `scheduler_config.json`. Raises ReleaseInvalid."""
    check(name, config, timesteps)
    kind, overrides = _CLASSES[name]
    if name in DRAWS_NOISE:
        # Otherwise diffusers warns of every timestep that is not on a coarser grid.
        overrides = {
            **overrides,
            "original_inference_steps": config.get("num_train_timesteps", 1000),
        }
    noise_scheduler = classes.make(kind, config, **overrides)
    if hasattr(noise_scheduler, "set_exact"):
        noise_scheduler.set_exact(list(timesteps))
    else:
        noise_scheduler.set_timesteps(timesteps=list(timesteps))
    return noise_scheduler


def predict_clean(
    noise_scheduler: Any, model_input: torch.Tensor, output: torch.Tensor, timestep: Any
) -> torch.Tensor:
    """Return pred_x0, the image that the network predicts at the end, from its input and output.

    The same for every noise scheduler: scaled for the network, a sample is √ᾱ x₀ + √(1 − ᾱ) ε.
    """
    alpha = float(noise_scheduler.alphas_cumprod[int(timestep)])
    signal, noise = alpha**0.5, (1 - alpha) ** 0.5
    if noise_scheduler.config.prediction_type == "epsilon":
        return (model_input - noise * output) / signal
    if noise_scheduler.config.prediction_type == "v_prediction":
        return signal * model_input - noise * output
    return output


def check(name: str, config: dict[str, Any], timesteps: Sequence[int]) -> None:
    """Raise ReleaseInvalid for a configuration that no noise scheduler here handles correctly."""
    if name not in _CLASSES:
        raise ReleaseInvalid(f"The noise scheduler {name!r} is not one of {', '.join(NAMES)}.")
    trained = config.get("num_train_timesteps", 1000)
    if not timesteps or timesteps[0] >= trained or min(timesteps) < 0:
        raise ReleaseInvalid(f"The timesteps must lie from 0 to {trained - 1}.")
    if any(later >= earlier for earlier, later in pairwise(timesteps)):
        raise ReleaseInvalid("The timesteps must be descending.")
    if (
        config.get("rescale_betas_zero_snr")
        and config.get("prediction_type", "epsilon") == "epsilon"
    ):
        raise ReleaseInvalid(
            "At zero terminal signal-to-noise ratio a noise prediction contains no information on the image: "
            "prediction_type must be v_prediction or sample."
        )


def default_timesteps(config: dict[str, Any], steps: int) -> list[int]:
    """Return the timesteps of diffusers' DDIM for this configuration and number of steps."""
    trained = config.get("num_train_timesteps", 1000)
    if not 1 <= steps <= trained:
        raise ReleaseInvalid(f"The number of steps must be from 1 to {trained}, not {steps}.")
    noise_scheduler = classes.make(DDIMScheduler, config)
    noise_scheduler.set_timesteps(steps)
    return [int(t) for t in np.minimum(noise_scheduler.timesteps.numpy(), trained - 1)]
