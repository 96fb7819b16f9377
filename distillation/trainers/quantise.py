"""Brings a student's weights onto the int8 grid of a release, and tunes it there. Knows no discriminator, no bundle.

Rounding moves every weight by up to half a level. A short training with rounded weights in each pass, whose gradient
goes to the unrounded ones as if nothing were rounded (straight-through; Bengio et al., arXiv 1308.3432), lets them make
up for each other. The student of before, unrounded, is what it is compared with.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Generator, Tensor, nn
from torch.func import functional_call

from distillation.resumable import atomic
from distillation.trainers import rollout
from distillation.trainers.catalogue import Catalogue
from distillation.trainers.pairs import Pairs, noise_of
from distillation.trainers.rollout import Examples
from distillation.trainers.teacher import Teacher
from distillation.training import loop, networks, processes
from distillation.training.ema import Ema
from distillation.training.optimizers import adamw, update
from generation.engine import folding, quantization

MEASURED = "measured.json"
SCALE_BITS = 17  # times the 7 of a level they fill the 24 of fp32: no product is rounded


@dataclass(frozen=True)
class QuantiseRecipe:
    """steps: 0 rounds alone. The learning rate is small beside a level, a hundredth of the largest weight.

    measured: images that tell how much rounding changes, of the seeds from 0; those of the pairs are others.
    """

    steps: int = 300
    batch: int = 16
    learning_rate: float = 5e-6  # peak; half a cosine to zero
    warmup: int = 30
    betas: tuple[float, float] = (0.9, 0.99)
    clipped_norm: float = 1.0
    ema_decay: float = 0.98
    measured: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch", "measured"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.steps < 0:
            raise ValueError(f"steps must not be negative, not {self.steps}.")
        if self.warmup < 0 or self.warmup > self.steps > 0:
            raise ValueError(f"warmup must lie from 0 to steps ({self.steps}), not {self.warmup}.")
        for name in ("learning_rate", "clipped_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), not {self.ema_decay}.")


# --- the grid -------------------------------------------------------------------------------------
def is_covered(name: str, tensor: Tensor) -> bool:
    """Whether a release stores this parameter of a U-Net as int8. What is folded into biases it does not store."""
    is_folded = name.startswith(folding.TIME_EMBEDDING) or folding.TIME_PROJECTION in name
    return not is_folded and quantization.covers(name, tensor)


def on_grid(weight: Tensor) -> Tensor:
    """The nearest weight that a release gives back exactly, fp32. weight: [out, …].

    The scale is the release's own, max |w| ÷ 127 of an output channel, cut to SCALE_BITS: then 127 × scale is exact, so
    that whoever measures the rounded weight finds the same scale again.
    """
    mantissa, exponent = torch.frexp(quantization.scales(weight))
    scale = torch.ldexp((mantissa * 2**SCALE_BITS).round() / 2**SCALE_BITS, exponent)
    return quantization.multiplied_out(quantization.rounded(weight, scale), scale, torch.float32)


def rounded(network: UNet2DConditionModel) -> UNet2DConditionModel:
    """A frozen copy with weights on the grid; what a release stores in fp16 is rounded to that."""
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
    """A network that computes with rounded weights; its own stay as they are, and get the gradients."""

    def __init__(self, network: UNet2DConditionModel) -> None:
        super().__init__()
        self.network = network
        self.weights: Mapping[str, Tensor] = {}

    def round(self) -> None:
        """Once for all passes of a step."""
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
class QuantiseTask:
    """What is trained, for `distillation.training.loop`."""

    def __init__(
        self,
        recipe: QuantiseRecipe,
        *,
        teacher: Teacher,
        student: UNet2DConditionModel,
        pairs: Pairs,
        catalogue: Catalogue,
        timesteps: Sequence[int],
    ) -> None:
        """student: the target, left as it is. Raises RecipeRefused."""
        self._timesteps = rollout.check(timesteps, teacher.schedule)
        self._recipe = recipe
        self._examples = Examples(teacher, pairs=pairs, catalogue=catalogue)
        # What rounding does is smaller than what bf16 does: both are computed in fp32.
        self._teacher = replace(teacher, is_bf16=False)
        self._target = student
        self.network = copy.deepcopy(student).requires_grad_(True)
        self.network.set_attn_processor(teacher.attention_processor())
        self._rounding = _Rounding(self.network)
        self._optimizer = adamw(
            self.network,
            learning_rate=recipe.learning_rate,
            weight_decay=0.0,
            betas=recipe.betas,
            fused=True,
        )
        self._ema = Ema(self.network, recipe.ema_decay)
        self.modules: dict[str, nn.Module] = {"student": self.network}
        self.optimizers: dict[str, torch.optim.Optimizer] = {"student": self._optimizer}
        self.emas: dict[str, Ema] = {"student": self._ema}

    @property
    def averaged(self) -> UNet2DConditionModel:
        """What is worth rounding."""
        network: UNet2DConditionModel = self._ema.module
        return network

    def step(self, index: int, generator: Generator) -> dict[str, float]:
        recipe = self._recipe
        loop.anneal(self._optimizer, index, recipe)
        rows = self._examples.drawn(processes.share(recipe.batch), generator)
        noise, embeds = self._examples.noise(rows), self._examples.embeds(rows)
        self._rounding.round()
        losses = []
        ours = theirs = noise
        # Each network walks its own path, so that a later pass learns to make up for the ones before.
        for number, timestep in enumerate(self._timesteps):
            times = torch.full((len(noise),), timestep, device=noise.device)
            with torch.no_grad():
                target = self._estimate(self._target, theirs, times, embeds)
            output = self._estimate(self._rounding, ours, times, embeds)
            losses.append((output - target).square().mean())
            if following := self._timesteps[number + 1 : number + 2]:
                ours = self._stepped(output.detach(), ours, times, following[0])
                theirs = self._stepped(target, theirs, times, following[0])
        loss = torch.stack(losses).mean()
        norm = update(self._optimizer, loss, clipped_norm=recipe.clipped_norm)
        self._ema.update()
        return {"loss": float(loss.detach()), "gradient_norm": norm}

    def _estimate(
        self, network: nn.Module, latents: Tensor, timesteps: Tensor, embeds: Tensor
    ) -> Tensor:
        return rollout.estimate(network, latents, timesteps, embeds, teacher=self._teacher)

    def _stepped(self, x0: Tensor, latents: Tensor, timesteps: Tensor, following: int) -> Tensor:
        schedule = self._teacher.schedule
        noise = schedule.converted(x0, latents, timesteps, source="sample", target="epsilon")
        return schedule.noised(x0, noise, torch.full_like(timesteps, following))


# --- measuring ------------------------------------------------------------------------------------
@torch.no_grad()
def measure(
    network: UNet2DConditionModel,
    reference: UNet2DConditionModel,
    *,
    teacher: Teacher,
    decoder: AutoencoderTiny,
    catalogue: Catalogue,
    timesteps: Sequence[int],
    count: int,
) -> dict[str, float]:
    """How far the network's images are from the reference's, for the seeds 0 … count − 1 with prompts of all places.

    All in fp32. latents_psnr: dB, the mean over images; the peak is the range of all the reference's latents, largest
    less smallest. latents_psnr_worst: the least. pictures_psnr: of the decoder's pictures, by the range of pixels.
    """
    exact = replace(teacher, is_bf16=False)
    rows = torch.linspace(0, len(catalogue) - 1, count).round().long()
    noise = noise_of(range(count), teacher.latent_shape)
    latents: list[Tensor] = []
    pictures: list[Tensor] = []
    for walked in (network, reference):
        parts = [
            rollout.walk(
                walked,
                noise[part].to(teacher.device),
                catalogue.embeds(rows[part]).to(teacher.device),
                teacher=exact,
                timesteps=timesteps,
            )
            for part in torch.arange(count).split(teacher.decoded_at_once)
        ]
        latents.append(torch.cat(parts))
        pictures.append(torch.cat([decoder.decode(x).sample.clamp(-1, 1) for x in parts]))
    of_latents = _psnr(*latents, peak=float(latents[1].max() - latents[1].min()))
    of_pictures = _psnr(*pictures, peak=2.0)
    return {
        "latents_psnr": round(float(of_latents.mean()), 3),
        "latents_psnr_worst": round(float(of_latents.min()), 3),
        "pictures_psnr": round(float(of_pictures.mean()), 3),
    }


def _psnr(output: Tensor, target: Tensor, *, peak: float) -> Tensor:
    """dB of each image, [n]."""
    error = (output.double() - target.double()).square().flatten(1).mean(1)
    return 10 * torch.log10(peak**2 / error)


def train(
    recipe: QuantiseRecipe,
    *,
    teacher: Teacher,
    student: UNet2DConditionModel,
    decoder: AutoencoderTiny,
    pairs: Pairs,
    catalogue: Catalogue,
    timesteps: tuple[int, ...],
    folder: Path,
    progress_bar: bool = True,
) -> UNet2DConditionModel:
    """Tune (going on from the folder's checkpoint) and round; frozen, in evaluation mode, and saved in folder/unet.

    student: fp32, left as it is. decoder: draws the pictures that are measured. timesteps: those it is served in,
    descending. Writes folder/measured.json: `measure` of rounding alone ("before") and after tuning ("after"), and
    which of them was nearer to the student and is kept.
    Raises RecipeRefused.
    """
    folder = Path(folder)
    task = QuantiseTask(
        recipe,
        teacher=teacher,
        student=student,
        pairs=pairs,
        catalogue=catalogue,
        timesteps=timesteps,
    )
    if recipe.steps:
        loop.run(
            task,
            folder,
            steps=recipe.steps,
            seed=recipe.seed,
            title="quantise",
            progress_bar=progress_bar,
        )
    candidates = {"before": rounded(student), "after": rounded(task.averaged)}
    measured = {
        name: measure(
            network,
            student,
            teacher=teacher,
            decoder=decoder,
            catalogue=catalogue,
            timesteps=timesteps,
            count=recipe.measured,
        )
        for name, network in candidates.items()
    }
    kept = max(measured, key=lambda name: measured[name]["latents_psnr"])
    networks.save(candidates[kept], folder / "unet")
    if processes.is_main():
        found = {"seeds": recipe.measured, "timesteps": list(timesteps), "kept": kept, **measured}
        atomic.write_file(folder / MEASURED, json.dumps(found, indent=1) + "\n")
    processes.barrier()
    return candidates[kept]
