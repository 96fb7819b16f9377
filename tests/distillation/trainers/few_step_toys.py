"""A teacher, its pairs and a decoder at toy size, and networks of Gaussians with known solutions."""

import copy
import functools
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from distillation.resumable import progress
from distillation.resumable.progress import SliceOver
from distillation.trainers import student as students
from distillation.trainers import teacher as teachers
from distillation.trainers.catalogue import Catalogue
from distillation.trainers.inputs import TuningInputs
from distillation.trainers.pairs import Pairs
from distillation.trainers.schedule import CLEAN, NoiseSchedule
from distillation.trainers.student import StudentRecipe
from distillation.trainers.teacher import Teacher
from distillation.training import loop
from distillation.training.task import Task
from tests import tiny

PATH = (999, 749, 499, 249)  # the toy teacher's own steps
KINDS = {  # prediction type and whether the last timestep is pure noise: the starter's, and SD 1.5's
    "v at zero terminal SNR": ("v_prediction", True),
    "epsilon as SD 1.5": ("epsilon", False),
}
_holders: list[tempfile.TemporaryDirectory] = []  # removed when the process ends
_solved: dict[tuple[object, ...], Pairs] = {}


@functools.cache
def _release(prediction_type: str, zero_snr: bool, guidance_scale: float) -> Path:
    holder = tempfile.TemporaryDirectory(prefix="few-step-")
    _holders.append(holder)
    folder = Path(holder.name) / "teacher"
    tiny.make_tiny_release(
        folder,
        prediction_type=prediction_type,
        zero_snr=zero_snr,
        guidance_scale=guidance_scale,
        timesteps=PATH,
    )
    return folder


@functools.cache
def teacher(kind: str = "v at zero terminal SNR", *, guidance_scale: float = 1.5) -> Teacher:
    """Return a toy teacher in fp32, for exact comparisons. All tests share its frozen network."""
    loaded = teachers.load(_release(*KINDS[kind], guidance_scale), device="cpu")
    return replace(loaded, is_bf16=False)


def teacher_without_guidance(of: Teacher) -> Teacher:
    return replace(of, manifest=replace(of.manifest, guidance_scale=1.0))


def student(of: Teacher) -> UNet2DConditionModel:
    return students.make(of, StudentRecipe(cut=None))


def catalogue(prompts: int = 3) -> Catalogue:
    generator = torch.Generator().manual_seed(11)
    return Catalogue(
        slugs=tuple(f"variant-{number}" for number in range(prompts)),
        texts=tuple(f"variant {number}" for number in range(prompts)),
        prompt_embeds=torch.randn(prompts, tiny.TOKENS, tiny.WIDTH, generator=generator).half(),
        encoder_fingerprint="toy",
    )


def pairs(of: Teacher, *, prompts: int = 3, seeds: int = 4) -> Pairs:
    """Return a copy of the toy teacher's pairs, all accepted, with so many seeds of each prompt."""
    key = (of.unet, of.guidance_scale, of.is_bf16, prompts, seeds)
    if key not in _solved:
        _solved[key] = _solve(of, prompts, seeds)
    return copy.deepcopy(_solved[key])


def _solve(of: Teacher, prompts: int, seeds: int) -> Pairs:
    rows = torch.arange(prompts).repeat_interleave(seeds)
    blank = torch.zeros(len(rows), *of.latent_shape)
    found = Pairs(
        prompts=rows,
        seeds=torch.arange(len(rows)) + 500,
        latents=blank,
        path=blank[:, None],
        accepted=torch.ones(len(rows), dtype=torch.bool),
        margins=torch.ones(len(rows)),
        path_timesteps=PATH,
    )
    embeds = catalogue(prompts).embeds(rows)
    latents, path = found.noise(torch.arange(len(rows))), []
    for now, following in zip(PATH, (*PATH[1:], CLEAN), strict=True):
        times = torch.full((len(rows),), now)
        path.append(latents)
        prediction = of.predict(latents, times, embeds)
        latents = of.schedule.stepped(prediction, latents, times, torch.full_like(times, following))
    return replace(found, latents=latents.half(), path=torch.stack(path, 1).half())


def decoder(*, levels: int = 4, shuffle: int = 1) -> AutoencoderTiny:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return AutoencoderTiny(
            out_channels=3 * shuffle**2,
            encoder_block_out_channels=(8,) * levels,
            decoder_block_out_channels=(8,) * levels,
            num_encoder_blocks=(1,) * levels,
            num_decoder_blocks=(1,) * levels,
        )


def inputs(
    folder: Path = Path("unused"), timesteps: tuple[int, ...] = (999,), *, of: Teacher, **given
) -> TuningInputs:
    """Return the inputs of a toy student that begins as its teacher; `given` replaces any of them."""
    made = {"student": student, "pairs": pairs}
    made = {name: make(of) for name, make in made.items() if name not in given}
    return TuningInputs(
        teacher=of,
        catalogue=catalogue(),
        decoder=given.pop("decoder", None) or decoder(),
        timesteps=timesteps,
        folder=folder,
        progress_bar=False,
        **made,
        **given,
    )


def run(task: Task, recipe: loop.Timed, folder: Path) -> loop.Progress:
    return loop.run(
        task, folder, steps=recipe.steps, seed=recipe.seed, title="toy", progress_bar=False
    )


def assert_resumes(make: Callable[[], Task], recipe: loop.Timed, folder: Path) -> None:
    """Assert that a training stopped after its first step ends with the weights and averages of a whole one."""
    whole, cut, resumed = make(), make(), make()
    run(whole, recipe, folder / "whole")
    stop = progress.watched(lambda title, done, total: done == 1)
    with stop, pytest.raises(SliceOver):
        run(cut, recipe, folder / "cut")
    assert run(resumed, recipe, folder / "cut").step == recipe.steps
    for name, module in whole.modules.items():
        assert same(module, resumed.modules[name])
        assert not same(module, cut.modules[name])  # there was something left to learn
    for name, ema in whole.emas.items():
        assert same(ema.module, resumed.emas[name].module)


def same(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    found = right.state_dict()
    return all(torch.equal(value, found[name]) for name, value in left.state_dict().items())


class GaussianScore(torch.nn.Module):
    """A perfect network for clean latents from N(mean, deviation²), with a mean and a deviation per channel."""

    def __init__(self, schedule: NoiseSchedule, mean: list[float], deviation: list[float]) -> None:
        super().__init__()
        self.schedule = schedule
        self.mean = torch.nn.Parameter(torch.tensor(mean).view(-1, 1, 1))
        self.log_deviation = torch.nn.Parameter(torch.tensor(deviation).log().view(-1, 1, 1))

    @property
    def deviation(self) -> torch.Tensor:
        return self.log_deviation.exp()

    def forward(self, latents, timesteps, encoder_hidden_states, return_dict=True):
        alpha, sigma = (
            part.float().view(-1, 1, 1, 1) for part in self.schedule.coefficients(timesteps)
        )
        variance = self.deviation.square()
        share = (latents - alpha * self.mean) / (alpha.square() * variance + sigma.square())
        return (self._typed(self.mean + alpha * variance * share, sigma * share, alpha, sigma),)

    def _typed(self, x0, noise, alpha, sigma):
        if self.schedule.prediction_type == "epsilon":
            return noise
        return alpha * noise - sigma * x0


class GaussianStudent(GaussianScore):
    """Makes N(mean, deviation²) of pure noise in one pass: x₀ = mean + deviation · z, in the prediction type."""

    def forward(self, latents, timesteps, encoder_hidden_states, return_dict=True):
        alpha, sigma = (
            part.float().view(-1, 1, 1, 1) for part in self.schedule.coefficients(timesteps)
        )
        x0 = self.mean + self.deviation * latents
        noise = (latents - alpha * x0) / sigma
        return (self._typed(x0, noise, alpha, sigma),)
