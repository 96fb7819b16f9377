"""Passes of a few-step student, from noise to clean latents, and the pairs that they start from.

A student with timesteps t_1 > … > t_k starts from pure noise at t_1, even if α(t_1) > 0. Every pass makes a prediction
of the teacher's type, which is converted to x₀; a DDIM step (η = 0) leads to the next timestep, and the x₀ of the last
pass is the result, as in the engine.

In training, the inputs of later passes must come from the student itself (backward simulation; DMD2, arXiv 2405.14867,
§4.5), because a served student does not get noised latents of the teacher.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn

from distillation.trainers import pairs as pairing
from distillation.trainers.catalogue import Catalogue
from distillation.trainers.pairs import Pairs
from distillation.trainers.schedule import NoiseSchedule
from distillation.trainers.teacher import Teacher
from distillation.training.errors import RecipeRefused

WATCHED_AT_ONCE = 16


def check(timesteps: Sequence[int], schedule: NoiseSchedule) -> None:
    """Raise RecipeRefused if no student of this teacher can be served at the timesteps, descending from 0 or more."""
    if timesteps[0] >= len(schedule):
        raise RecipeRefused(
            f"timesteps must lie from 0 to {len(schedule) - 1}, the teacher's own, not {tuple(timesteps)}."
        )
    if schedule.prediction_type == "epsilon" and schedule.alphas[timesteps[0]] <= 0:
        raise RecipeRefused(
            f"timesteps begins at {timesteps[0]}, where the teacher's schedule leaves no signal: a student that "
            "predicts noise cannot determine the image there. Start lower, or use a teacher that predicts v."
        )


class Examples:
    """Pairs with their prompts, in fp32 on the teacher's device. `rows`, int64 [B] on the CPU, index them."""

    def __init__(self, teacher: Teacher, *, pairs: Pairs, catalogue: Catalogue) -> None:
        """Raises RecipeRefused if the pairs are of another catalogue."""
        if int(pairs.prompts.max()) >= len(catalogue):
            raise RecipeRefused(
                f"pairs has the prompt variant {int(pairs.prompts.max())}, but the catalogue ends at "
                f"{len(catalogue) - 1}: give the catalogue that the pairs were made for."
            )
        self._pairs = pairs
        self._device = teacher.device
        self._embeds = catalogue.prompt_embeds.to(teacher.device)

    def drawn(self, count: int, generator: Generator) -> Tensor:
        """Draw rows, with replacement."""
        return pairing.drawn(self._pairs, count, generator)

    def by_prompt(self, count: int) -> Tensor:
        """Return the first rows in the order of their prompts: few prompts, each with several seeds."""
        return self._pairs.prompts.argsort(stable=True)[:count]

    def prompts(self, rows: Tensor) -> Tensor:
        """Return the prompts of the pairs as rows of the catalogue, int64 [B]."""
        return self._pairs.prompts[rows]

    def embeds(self, rows: Tensor) -> Tensor:
        """Return prompt_embeds [B, tokens, width]."""
        return self._embeds[self.prompts(rows).to(self._device)].float()

    @property
    def latents(self) -> Tensor:
        """Return all clean latents as stored, fp16 [n, C, h, w]."""
        return self._pairs.latents

    def noise(self, rows: Tensor) -> Tensor:
        """Return the initial noise of the teacher's trajectories, [B, C, h, w]."""
        return self._pairs.noise(rows).to(self._device)

    def targets(self, rows: Tensor) -> Tensor:
        """Return the final clean latents of the trajectories, [B, C, h, w]."""
        return self._pairs.latents[rows].float().to(self._device)

    def path(self, rows: Tensor, timestep: int) -> Tensor:
        """Return the latents of the trajectories at the timestep, one of the pairs' path_timesteps, [B, C, h, w]."""
        place = self._pairs.path_timesteps.index(timestep)
        return self._pairs.path[rows, place].float().to(self._device)

    def fresh_noise(self, count: int, generator: Generator) -> Tensor:
        """Return noise [count, C, h, w], drawn on the CPU."""
        shape = (count, *self._pairs.latents.shape[1:])
        return torch.randn(shape, generator=generator).to(self._device)


@dataclass(frozen=True)
class Rollout:
    """Passes of a student with these timesteps, descending.

    In all methods latents, noise and results are [B, C, h, w], results fp32; prompt_embeds [B, tokens, width]; all on
    the teacher's device.
    """

    teacher: Teacher
    timesteps: tuple[int, ...]

    def estimate(
        self, student: nn.Module, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor
    ) -> Tensor:
        """Return x̂₀ of one pass at x_t, differentiable if gradients are enabled. timesteps: int64 [B]."""
        prediction = self.teacher.passed(student, latents, timesteps, prompt_embeds)
        return self.teacher.schedule.as_x0(prediction, latents, timesteps)

    @torch.no_grad()
    def arrive(
        self, student: nn.Module, noise: Tensor, prompt_embeds: Tensor, *, index: int
    ) -> Tensor:
        """Return the input latents of pass `index` (from 0): the noise itself, or the result of earlier passes."""
        latents = noise
        for now, following in pairwise(self.timesteps[: index + 1]):
            times = torch.full((len(noise),), now, device=noise.device)
            prediction = self.teacher.passed(student, latents, times, prompt_embeds)
            latents = self.teacher.schedule.stepped(
                prediction, latents, times, torch.full_like(times, following)
            )
        return latents

    def ended(
        self, student: nn.Module, noise: Tensor, prompt_embeds: Tensor, *, index: int
    ) -> Tensor:
        """Return x̂₀ of pass `index`, differentiable; earlier passes have no gradient."""
        latents = self.arrive(student, noise, prompt_embeds, index=index)
        times = torch.full((len(noise),), self.timesteps[index], device=noise.device)
        return self.estimate(student, latents, times, prompt_embeds)

    def one_pass(
        self, student: nn.Module, noise: Tensor, prompt_embeds: Tensor, generator: Generator
    ) -> Tensor:
        """Return x̂₀ of a random one of the student's passes, differentiable."""
        index = int(torch.randint(len(self.timesteps), (), generator=generator))
        return self.ended(student, noise, prompt_embeds, index=index)

    @torch.no_grad()
    def walk(self, student: nn.Module, noise: Tensor, prompt_embeds: Tensor) -> Tensor:
        """Return the clean latents after all passes, without gradient."""
        return self.ended(student, noise, prompt_embeds, index=len(self.timesteps) - 1)

    def watch(self, student: nn.Module, examples: Examples, *, count: int) -> dict[str, float]:
        """Return `likeness` of the student's latents for the noise of `count` pairs, with names `watched_…`."""
        rows = examples.by_prompt(count)
        parts = [
            self.walk(student, examples.noise(part), examples.embeds(part))
            for part in rows.split(WATCHED_AT_ONCE)
        ]
        found = likeness(torch.cat(parts), examples.targets(rows), examples.prompts(rows))
        return {f"watched_{name}": value for name, value in found.items()}


def likeness(output: Tensor, target: Tensor, prompts: Tensor) -> dict[str, float]:
    """Return measures of a student's clean latents against the teacher's for the same noise: collapse shows here first.

    output, target [B, C, h, w]; prompts int64 [B]. `error`: root mean square of the difference. `std_ratio`: spread of
    the student's values ÷ the teacher's; above 1 is oversaturation. `diversity`: root mean square distance between
    images of one prompt ÷ the teacher's; 0 is one picture for every seed (left out if no prompt comes twice).
    """
    output, target = output.detach().float(), target.detach().float()
    found = {
        "error": float((output - target).square().mean().sqrt()),
        "std_ratio": float(output.std() / target.std()),
    }
    same = (prompts[:, None] == prompts[None, :]).triu(1).nonzero()
    if len(same):
        left, right = same[:, 0], same[:, 1]
        spread = [(part[left] - part[right]).square().mean().sqrt() for part in (output, target)]
        found["diversity"] = float(spread[0] / spread[1])
    return found
