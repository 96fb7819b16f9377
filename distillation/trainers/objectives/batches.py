"""Batches of a structural training: noised latents of the pairs and points of the teacher's paths.

There are three kinds of samples. Noised: the teacher's x₀ with freshly drawn noise, x_t = α x₀ + σ ε. The noise from
which x₀ was generated is not used: the two are dependent, so the mean noise at x_t would not be the score that the
teacher has learned. Path: x_t on the teacher's path. First: pure noise at the teacher's first timestep, as in serving.
"""

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from distillation.losses.predictions import min_snr_weights
from distillation.trainers import pairs as pairs_of_teacher
from distillation.trainers.catalogue import Catalogue
from distillation.trainers.pairs import Pairs
from distillation.trainers.schedule import NoiseSchedule
from distillation.trainers.teacher import Teacher
from distillation.training import checks
from distillation.training.errors import RecipeRefused


@dataclass(frozen=True)
class Shares:
    """Composition of a batch, and distribution of the timesteps of its noised samples; see `density`."""

    path_share: float = 0.3  # of the samples
    first_timestep_share: float = 0.1  # of the samples; the rest is noised
    min_snr_gamma: float = 5.0
    weight_floor: float = 0.35

    def __post_init__(self) -> None:
        checks.below_1(self, "path_share", "first_timestep_share")
        if self.path_share + self.first_timestep_share >= 1:
            raise ValueError(
                f"path_share ({self.path_share}) and first_timestep_share ({self.first_timestep_share}) leave no "
                "noised samples."
            )
        checks.positive(self, "min_snr_gamma", "weight_floor")
        checks.share(self, "weight_floor")

    def split(self, size: int, *, has_paths: bool) -> tuple[int, int, int]:
        """Return the numbers of noised samples, path points and pure noise in a batch. Raises RecipeRefused.

        has_paths: whether the pairs hold points of the path.
        """
        paths, firsts = _count(self.path_share, size), _count(self.first_timestep_share, size)
        noised = size - paths - firsts
        if noised < 1:
            raise RecipeRefused(
                f"batch ({size} samples) has no room for a noised one besides path_share and first_timestep_share."
            )
        if paths and not has_paths:
            raise RecipeRefused(
                f"path_share is {self.path_share}, but the pairs hold no path points: give 0, or path_timesteps in "
                "the recipe of the pairs."
            )
        return noised, paths, firsts


@dataclass(frozen=True)
class Batch:
    """latents: x_t, fp32 [B, C, h, w]; timesteps: int64 [B]; prompt_embeds: fp32 [B, tokens, width].

    hard: fp32 [H, C, h, w], hard targets of the first H samples, the noised ones, in the teacher's prediction type.
    """

    latents: Tensor
    timesteps: Tensor
    prompt_embeds: Tensor
    hard: Tensor

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the inputs of a pass: latents, timesteps, prompt_embeds."""
        return self.latents, self.timesteps, self.prompt_embeds


class Batches:
    """Draws batches of `size` samples; each depends only on the generator."""

    def __init__(
        self, shares: Shares, *, size: int, teacher: Teacher, pairs: Pairs, catalogue: Catalogue
    ) -> None:
        """Raises RecipeRefused if the pairs lack what the shares need."""
        self.noised, self._paths, self._firsts = shares.split(
            size, has_paths=bool(pairs.path_timesteps)
        )
        if not len(pairs):
            raise RecipeRefused("There are no pairs to train on.")
        if int(pairs.prompts.max()) >= len(catalogue):
            raise RecipeRefused(
                f"The pairs have the prompt {int(pairs.prompts.max())}, the catalogue {len(catalogue)} prompts: they "
                "were made of another catalogue."
            )
        self.size = size
        self._shares = shares
        self._teacher = teacher
        self._pairs = pairs
        self._catalogue = catalogue
        weights = density(teacher.schedule, gamma=shares.min_snr_gamma, floor=shares.weight_floor)
        self._cumulative = weights.cumsum(0)

    def only_noised(self, size: int) -> "Batches":
        """Return batches of the same pairs, without path points and pure noise."""
        return Batches(
            replace(self._shares, path_share=0.0, first_timestep_share=0.0),
            size=size,
            teacher=self._teacher,
            pairs=self._pairs,
            catalogue=self._catalogue,
        )

    def draw(self, generator: Generator) -> Batch:
        """Draw a batch, on the teacher's device. `generator` is on the CPU."""
        rows = pairs_of_teacher.drawn(self._pairs, self.size, generator)
        noised, paths, firsts = rows.split([self.noised, self._paths, self._firsts])
        steps = draw_timesteps(self._cumulative, self.noised, generator)
        clean = self._pairs.latents[noised].float()
        noise = torch.randn(clean.shape, generator=generator)
        schedule = self._teacher.schedule
        latents, timesteps = [schedule.noised(clean, noise, steps)], [steps]
        # From x₀, because the noise does not determine v where α is 0.
        hard = schedule.converted(
            clean, latents[0], steps, source="sample", target=schedule.prediction_type
        )
        if self._paths:
            points = torch.randint(
                len(self._pairs.path_timesteps), (self._paths,), generator=generator
            )
            latents.append(self._pairs.path[paths, points].float())
            timesteps.append(torch.tensor(self._pairs.path_timesteps)[points])
        if self._firsts:
            latents.append(self._pairs.noise(firsts))
            timesteps.append(torch.full((self._firsts,), max(self._teacher.timesteps)))
        device = self._teacher.device
        return Batch(
            latents=torch.cat(latents).to(device),
            timesteps=torch.cat(timesteps).to(device),
            prompt_embeds=self._catalogue.embeds(self._pairs.prompts[rows]).to(device),
            hard=hard.to(device),
        )


def density(schedule: NoiseSchedule, *, gamma: float, floor: float) -> Tensor:
    """Return the sampling probability of each timestep, fp64 [timesteps], sum 1: ∝ max(min-SNR weight, floor).

    The expected gradient is that of min-SNR weights (Hang et al., arXiv 2303.09556), without work on samples of little
    weight. The floor keeps the noisiest steps, where the weight of v vanishes and where sampling starts.
    """
    weights = min_snr_weights(
        schedule.alphas, schedule.sigmas, prediction_type=schedule.prediction_type, gamma=gamma
    ).clamp(min=floor)
    return weights / weights.sum()


def draw_timesteps(cumulative: Tensor, count: int, generator: Generator) -> Tensor:
    """Draw int64 [count], ascending, one from each of `count` equal parts of the probability (arXiv 2107.00630)."""
    offset = torch.rand(1, generator=generator, dtype=torch.float64)
    places = (torch.arange(count) + offset) / count * cumulative[-1]
    return torch.searchsorted(cumulative, places, right=True).clamp(max=len(cumulative) - 1)


def _count(share: float, size: int) -> int:
    """Return the share of the size, at least 1 unless the share is 0."""
    return max(1, round(share * size)) if share else 0
