"""Conversion of the time embedding's first layer for a narrower student.

A UNet turns the timestep into as many sines and cosines as its first level has channels. A narrower one has fewer, of
other frequencies: the layer is converted by approximating the teacher's sinusoids as linear combinations of the
student's.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor

from distillation.students.unets import UNetShape

TIMESTEPS = 1000  # 0 to 999, at which the sums are fitted
_RCOND = 1e-3  # of the fit, relative to the largest singular value: keeps the weights small


@dataclass(frozen=True)
class Sinusoids:
    """The teacher's sinusoids φ as linear combinations of the student's ψ: φ(t) ≈ mix · ψ(t)."""

    freq_shift: int  # of the student's configuration
    mix: Tensor  # float64 [teacher's, student's]
    error: float  # root mean square over timesteps and sinusoids; that of a sinusoid itself is 0.71


def fit(teacher: UNetShape, share: Fraction) -> Sinusoids:
    """Return the closest fit for a student that keeps the share of the channels; both widths even.

    diffusers' frequencies are exp(−ln 10⁴ · k ÷ (half − freq_shift)), k = 0 … half − 1. With freq_shift reduced by the
    number of dropped frequencies, the student's are the teacher's highest; the low ones, which hardly change over all
    timesteps, are combinations of those, if enough are kept. Otherwise the student's are spread over the whole range,
    and most of the change from one timestep to the next is lost. The better of the two fits is returned. Frequencies
    that both have are kept exactly.
    """
    width, shift = teacher.widths[0], teacher.config["freq_shift"]
    narrower = int(width * share)
    wanted, of_teacher = waves(teacher, width, shift)
    fits = []
    for candidate in (shift + (narrower - width) // 2, shift):
        given, of_student = waves(teacher, narrower, candidate)
        mix = torch.linalg.lstsq(given, wanted, rcond=_RCOND, driver="gelsd").solution.T
        shared = (of_teacher[:, None] / of_student - 1).abs() < 1e-9
        mix = torch.where(shared.any(1)[:, None], shared.double(), mix).contiguous()
        error = float(((given @ mix.T - wanted) ** 2).mean().sqrt())
        fits.append(Sinusoids(candidate, mix, error))
    return min(fits, key=lambda found: found.error)


def waves(teacher: UNetShape, width: int, freq_shift: int) -> tuple[Tensor, Tensor]:
    """Return sines and cosines, float64 [timesteps, width], and their frequencies [width], negative for cosines."""
    is_flipped = teacher.config["flip_sin_to_cos"]
    values = get_timestep_embedding(
        torch.arange(TIMESTEPS),
        width,
        flip_sin_to_cos=is_flipped,
        downscale_freq_shift=freq_shift,
    ).double()
    half = width // 2
    frequencies = torch.exp(
        -math.log(1e4) / (half - freq_shift) * torch.arange(half, dtype=torch.float64)
    )
    signs = (-1, 1) if is_flipped else (1, -1)
    return values, torch.cat([sign * frequencies for sign in signs])
