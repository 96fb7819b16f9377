"""Noise schedulers by name, restricted to exactly the timesteps of a manifest.

Timesteps are indexes into the training schedule. Use one object per batch: noise schedulers have state.
"""

import importlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from generation.engine import classes
from generation.engine.ddim import ExactDDIMScheduler
from generation.engine.errors import ReleaseInvalid

# Switches off every option that would modify the manifest's timesteps.
_EXACT = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "final_sigmas_type": "zero",
}
_PLAIN = {"clip_sample": False, "thresholding": False}  # for pixels, wrong for latents
# diffusers' module and class, and options. Imported when used, since the import takes seconds.
_CLASSES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "dpmsolver++": (
        "scheduling_dpmsolver_multistep",
        "DPMSolverMultistepScheduler",
        {**_EXACT, "thresholding": False, "algorithm_type": "dpmsolver++", "use_lu_lambdas": False},
    ),
    "unipc": (
        "scheduling_unipc_multistep",
        "UniPCMultistepScheduler",
        {**_EXACT, "thresholding": False},
    ),
    "euler": (
        "scheduling_euler_discrete",
        "EulerDiscreteScheduler",
        {**_EXACT, "timestep_type": "discrete", "interpolation_type": "linear"},
    ),
    "lcm": ("scheduling_lcm", "LCMScheduler", _PLAIN),
    "tcd": ("scheduling_tcd", "TCDScheduler", _PLAIN),
}
NAMES = ("ddim", *_CLASSES)
ORIGINAL_STEPS = 50  # diffusers' default of original_inference_steps, the grid of lcm and tcd
DRAWS_NOISE = ("lcm", "tcd")  # these add noise between steps, drawn from the images' generators


def make(name: str, config: dict[str, Any], timesteps: Sequence[int]) -> Any:
    """Return a new noise scheduler for one batch. config: `scheduler_config.json`. Raises ReleaseInvalid."""
    check(name, config, timesteps)
    if name == "ddim":
        return ExactDDIMScheduler(config, timesteps)
    module, kind, overrides = _CLASSES[name]
    if name in DRAWS_NOISE:
        # Otherwise diffusers warns about every timestep that is not on a coarser grid.
        overrides = {
            **overrides,
            "original_inference_steps": config.get("num_train_timesteps", 1000),
        }
    imported = importlib.import_module(f"diffusers.schedulers.{module}")
    noise_scheduler = classes.make(getattr(imported, kind), config, **overrides)
    if name == "unipc":
        _set_timesteps(noise_scheduler, timesteps)
    else:
        noise_scheduler.set_timesteps(timesteps=list(timesteps))
    return noise_scheduler


def _set_timesteps(unipc: Any, timesteps: Sequence[int]) -> None:
    """Set exactly these timesteps; UniPC's own `set_timesteps` accepts only their number."""
    unipc.set_timesteps(len(timesteps))
    alphas = unipc.alphas_cumprod[list(timesteps)]
    unipc.sigmas = torch.cat([((1 - alphas) / alphas).sqrt(), torch.zeros(1)]).float()
    unipc.timesteps = torch.tensor(timesteps)


def predict_clean(
    noise_scheduler: Any, model_input: torch.Tensor, output: torch.Tensor, timestep: Any
) -> torch.Tensor:
    """Return pred_x0, the predicted clean latents, from the network's input and output.

    Valid for every noise scheduler: scaled for the network, a sample is √ᾱ x₀ + √(1 − ᾱ) ε.
    """
    alpha = float(noise_scheduler.alphas_cumprod[int(timestep)])
    signal, noise = alpha**0.5, (1 - alpha) ** 0.5
    if noise_scheduler.config.prediction_type == "epsilon":
        return (model_input - noise * output) / signal
    if noise_scheduler.config.prediction_type == "v_prediction":
        return signal * model_input - noise * output
    return output


def check(name: str, config: dict[str, Any], timesteps: Sequence[int]) -> None:
    """Raise ReleaseInvalid if the configuration is not supported."""
    if name not in NAMES:
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


def default_timesteps(config: dict[str, Any], steps: int, *, name: str = "ddim") -> list[int]:
    """Return diffusers' timesteps for this configuration and number of steps; of DDIM except for lcm and tcd.

    Networks for lcm and tcd are distilled at the timesteps of these. Raises ReleaseInvalid.
    """
    trained = config.get("num_train_timesteps", 1000)
    module, kind, most = "scheduling_ddim", "DDIMScheduler", trained
    if name in DRAWS_NOISE:
        module, kind, _ = _CLASSES[name]
        most = min(trained, config.get("original_inference_steps", ORIGINAL_STEPS))
    if not 1 <= steps <= most:
        raise ReleaseInvalid(f"The number of steps must be from 1 to {most}, not {steps}.")
    imported = importlib.import_module(f"diffusers.schedulers.{module}")
    noise_scheduler = classes.make(getattr(imported, kind), config)
    noise_scheduler.set_timesteps(steps)
    return [int(t) for t in np.minimum(noise_scheduler.timesteps.numpy(), trained - 1)]
