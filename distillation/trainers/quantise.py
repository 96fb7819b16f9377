"""Stage `quantise`: quantisation-aware fine-tuning of a student on the int8 grid of a release.

Rounding changes every weight by up to half a level. A short training with rounded weights in each pass and
straight-through gradients (Bengio et al., arXiv 1308.3432) lets the weights compensate for each other's errors. The
target is the unrounded student.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Generator, Tensor, nn
from torch.func import functional_call

from distillation.resumable import atomic
from distillation.trainers.inputs import TuningInputs, run
from distillation.trainers.pairs import noise_of
from distillation.trainers.rollout import Examples, Rollout
from distillation.training import checks, loop, networks, processes
from distillation.training.task import Trained, TrainingRecipe
from generation.engine import folding, quantization
from generation.engine.latents import decoded

MEASURED = "measured.json"
SCALE_BITS = 17  # with the 7 bits of a level they fill the 24 of fp32, so products are exact


@dataclass(frozen=True)
class QuantiseRecipe(TrainingRecipe):
    """steps: 0 = rounding only. The learning rate is small compared with a level, a hundredth of the largest weight.

    measured: number of images on which the effect of rounding is measured, with seeds from 0, which no pair has.
    """

    steps: int = 300
    batch: int = 16
    learning_rate: float = 5e-6  # peak; half a cosine to zero
    warmup: int = 30
    ema_decay: float = 0.98
    measured: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least_1(self, "measured")
        checks.not_negative(self, "steps", "warmup")
        if self.steps:
            checks.at_most(self, "warmup", self.steps, "steps")


# --- the grid -------------------------------------------------------------------------------------
def is_covered(name: str, tensor: Tensor) -> bool:
    """Return whether a release stores this parameter of a U-Net as int8; folded parameters are not stored."""
    is_folded = name.startswith(folding.TIME_EMBEDDING) or folding.TIME_PROJECTION in name
    return not is_folded and quantization.covers(name, tensor)


def on_grid(weight: Tensor) -> Tensor:
    """Return the nearest weight that a release reproduces exactly, fp32. weight: [out, …].

    The scale is that of the release, max |w| ÷ 127 of an output channel, rounded to SCALE_BITS: then 127 × scale is
    exact, and a second rounding finds the same scale.
    """
    mantissa, exponent = torch.frexp(quantization.scales(weight))
    scale = torch.ldexp((mantissa * 2**SCALE_BITS).round() / 2**SCALE_BITS, exponent)
    return quantization.multiplied_out(quantization.rounded(weight, scale), scale, torch.float32)


def rounded(network: UNet2DConditionModel) -> UNet2DConditionModel:
    """Return a frozen copy with weights on the grid; parameters that a release stores in fp16 are rounded to fp16."""
    result = copy.deepcopy(network).requires_grad_(False).eval()
    with torch.no_grad():
        for name, parameter in result.named_parameters():
            if is_covered(name, parameter):
                parameter.copy_(on_grid(parameter))
            else:
                parameter.copy_(parameter.half().float())
    return result


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return on_grid(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class _Rounding(nn.Module):
    """A network that computes with rounded weights; its own weights stay unrounded and get the gradients."""

    def __init__(self, network: UNet2DConditionModel) -> None:
        super().__init__()
        self.network = network
        self.weights: Mapping[str, Tensor] = {}

    def round(self) -> None:
        """Round the weights once for all passes of a step."""
        self.weights = {
            name: _StraightThrough.apply(parameter)
            for name, parameter in self.network.named_parameters()
            if is_covered(name, parameter)
        }

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        encoder_hidden_states: Tensor,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        passed = {"encoder_hidden_states": encoder_hidden_states, "return_dict": return_dict}
        output: tuple[Tensor] = functional_call(
            self.network, dict(self.weights), (latents, timesteps), passed
        )
        return output


# --- training -------------------------------------------------------------------------------------
class QuantiseTask(Trained):
    """Training of the student with rounded weights, for `distillation.training.loop`."""

    def __init__(self, recipe: QuantiseRecipe, inputs: TuningInputs) -> None:
        """The inputs' student is the target and is not changed. Raises RecipeRefused."""
        super().__init__()
        teacher = inputs.teacher
        self._timesteps = inputs.timesteps
        self._recipe = recipe
        self._examples = Examples(teacher, pairs=inputs.pairs, catalogue=inputs.catalogue)
        # The effect of rounding is smaller than that of bf16, so both networks compute in fp32.
        self._rollout = Rollout(replace(teacher, is_bf16=False), self._timesteps)
        self._target = inputs.student
        self.network = copy.deepcopy(inputs.student).requires_grad_(True)
        self.network.set_attn_processor(teacher.attention_processor())
        self._rounding = _Rounding(self.network)
        self.add_by(recipe, "student", self.network, weight_decay=0.0)

    @property
    def averaged(self) -> UNet2DConditionModel:
        """Return the student to round, with averaged weights."""
        return self.emas["student"].module

    def step(self, index: int, generator: Generator) -> dict[str, float]:
        recipe = self._recipe
        loop.anneal(self.optimizers["student"], index, recipe)
        rows = self._examples.drawn(processes.share(recipe.batch), generator)
        noise, embeds = self._examples.noise(rows), self._examples.embeds(rows)
        self._rounding.round()
        losses = []
        ours = theirs = noise
        # Each network follows its own path, so that later passes learn to compensate for earlier ones.
        for number, timestep in enumerate(self._timesteps):
            times = torch.full((len(noise),), timestep, device=noise.device)
            with torch.no_grad():
                target = self._rollout.estimate(self._target, theirs, times, embeds)
            output = self._rollout.estimate(self._rounding, ours, times, embeds)
            losses.append((output - target).square().mean())
            if following := self._timesteps[number + 1 : number + 2]:
                ours = self._stepped(output.detach(), ours, times, following[0])
                theirs = self._stepped(target, theirs, times, following[0])
        loss = torch.stack(losses).mean()
        norm = self.update("student", loss, clipped_norm=recipe.clipped_norm)
        return {"loss": float(loss.detach()), "gradient_norm": norm}

    def _stepped(self, x0: Tensor, latents: Tensor, timesteps: Tensor, following: int) -> Tensor:
        schedule = self._rollout.teacher.schedule
        noise = schedule.converted(x0, latents, timesteps, source="sample", target="epsilon")
        return schedule.noised(x0, noise, torch.full_like(timesteps, following))


# --- measuring ------------------------------------------------------------------------------------
@torch.no_grad()
def measure(network: UNet2DConditionModel, inputs: TuningInputs, *, count: int) -> dict[str, float]:
    """Return measures of the network's images against the student's, for seeds 0 … count − 1, over all prompts evenly.

    All in fp32. latents_psnr: dB, the mean over images; the peak is the range of all the student's latents, largest
    less smallest. latents_psnr_worst: the least. pictures_psnr: of the decoder's pictures, by the range of pixels.
    """
    teacher, catalogue = replace(inputs.teacher, is_bf16=False), inputs.catalogue
    passes = Rollout(teacher, inputs.timesteps)
    rows = torch.linspace(0, len(catalogue) - 1, count).round().long()
    noise = noise_of(range(count), teacher.latent_shape)
    latents: list[Tensor] = []
    pictures: list[Tensor] = []
    for walked in (network, inputs.student):
        parts = [
            passes.walk(
                walked,
                noise[part].to(teacher.device),
                catalogue.embeds(rows[part]).to(teacher.device),
            )
            for part in torch.arange(count).split(teacher.decoded_at_once)
        ]
        latents.append(torch.cat(parts))
        pictures.append(torch.cat([decoded(inputs.decoder, x).clamp(-1, 1) for x in parts]))
    of_latents = _psnr(*latents, peak=float(latents[1].max() - latents[1].min()))
    of_pictures = _psnr(*pictures, peak=2.0)
    return {
        "latents_psnr": round(float(of_latents.mean()), 3),
        "latents_psnr_worst": round(float(of_latents.min()), 3),
        "pictures_psnr": round(float(of_pictures.mean()), 3),
    }


def _psnr(output: Tensor, target: Tensor, *, peak: float) -> Tensor:
    """Return the PSNR of each image in dB, [n]."""
    error = (output.double() - target.double()).square().flatten(1).mean(1)
    return 10 * torch.log10(peak**2 / error)


def train(recipe: QuantiseRecipe, inputs: TuningInputs) -> UNet2DConditionModel:
    """Tune (resuming from the folder's checkpoint) and round; save the result in folder/unet and return it, frozen.

    The student is not changed. Writes folder/measured.json: `measure` after rounding only ("before") and after tuning
    ("after"), and which of them is closer to the student and is kept. Raises RecipeRefused.
    """
    folder = inputs.folder
    task = QuantiseTask(recipe, inputs)
    if recipe.steps:
        run(task, recipe, inputs, title="quantise")
    candidates = {"before": rounded(inputs.student), "after": rounded(task.averaged)}
    measured = {
        name: measure(network, inputs, count=recipe.measured)
        for name, network in candidates.items()
    }
    kept = max(measured, key=lambda name: measured[name]["latents_psnr"])
    networks.save(candidates[kept], folder / "unet")
    if processes.is_main():
        timesteps = list(inputs.timesteps)
        found = {"seeds": recipe.measured, "timesteps": timesteps, "kept": kept, **measured}
        atomic.write_file(folder / MEASURED, json.dumps(found, indent=1) + "\n")
    processes.barrier()
    return candidates[kept]
