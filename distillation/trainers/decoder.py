"""Stage `decoder`: training of a tiny decoder to reproduce the pictures of the teacher's VAE for a catalogue's latents.

It has the architecture of TAESD (github.com/madebyollin/taesd): convolutions and ReLU, which take a fiftieth of the
VAE's time on CPU and GPU. It may work at a lower resolution and end in a pixel shuffle (arXiv 1609.05158), which takes
a quarter of that time. Its receptive field and channels are limited, but enough for the few subjects of a catalogue.
"""

import json
from dataclasses import dataclass

import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from torch import Generator, Tensor, nn

from distillation.image_metrics.distances import psnr
from distillation.resumable import atomic
from distillation.trainers.inputs import StageInputs, run
from distillation.trainers.pairs import Pairs
from distillation.trainers.picture_loss import PictureLoss, PictureLossRecipe
from distillation.trainers.real_images import RealImages
from distillation.trainers.sample_sheets import Samples
from distillation.trainers.teacher import Teacher
from distillation.trainers.vae_targets import VaePictures
from distillation.training import checks, loop, networks, processes
from distillation.training.errors import RecipeRefused
from distillation.training.task import Trained
from generation.engine.latents import as_uint8, decoded, pixels_per_latent

MEASURED = "measured.json"


@dataclass(frozen=True)
class DecoderRecipe(PictureLossRecipe):
    """blocks: number of residual blocks per level, from the lowest resolution; each level doubles the resolution.

    shuffle: factor of the pixel shuffle after the last level; 1 = none. TAESD's own shape: 64 channels, blocks
    (3, 3, 3, 1), shuffle 1.

    Targets are the VAE's pictures of `pictures` of the pairs' latents and of the same latents with noise, since a
    student's latents are close to the teacher's, not equal. With too few of them the decoder overfits.
    """

    channels: int = 32
    blocks: tuple[int, ...] = (2, 2, 1, 0)
    shuffle: int = 1
    steps: int = 2000
    batch: int = 8
    learning_rate: float = 2e-3  # peak; half a cosine to zero
    warmup: int = 100
    pictures: int = 1024
    latent_noise: float = 0.1  # standard deviation; latents have about 1
    validated: int = 64  # number of held-out pairs, evenly selected

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least_1(self, "channels", "shuffle", "steps", "pictures", "validated")
        checks.not_negative(self, "latent_noise")
        checks.at_most(self, "warmup", self.steps, "steps")
        if not self.blocks or min(self.blocks) < 0:
            raise ValueError(f"blocks must have a number from 0 for each level, not {self.blocks}.")


def build(recipe: DecoderRecipe, *, latent_channels: int) -> AutoencoderTiny:
    """Return an untrained decoder. Its class also has an encoder, which is minimal, never trained and never served.

    Its input is scaled latents, the output of the U-Net: its own scaling factor is 1.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return AutoencoderTiny(
            latent_channels=latent_channels,
            out_channels=3 * recipe.shuffle**2,
            encoder_block_out_channels=(1,),
            num_encoder_blocks=(0,),
            # The class cannot change the number of channels between levels.
            decoder_block_out_channels=(recipe.channels,) * len(recipe.blocks),
            num_decoder_blocks=recipe.blocks,
        )


def fitting(
    recipe: DecoderRecipe, *, teacher: Teacher, latent_shape: tuple[int, int, int]
) -> AutoencoderTiny:
    """Return an untrained decoder for latents of this shape [C, h, w].

    Raises RecipeRefused unless its pictures have the teacher's size.
    """
    network = build(recipe, latent_channels=latent_shape[0])
    factor, own = (pixels_per_latent(vae.config) for vae in (teacher.vae, network))
    if own != factor:
        raise RecipeRefused(
            f"decoder.blocks {recipe.blocks}, decoder.shuffle {recipe.shuffle}: {teacher.manifest.name} has "
            f"{factor} pixels per latent along a side, and this decoder {own}. Each number in blocks after the first "
            "doubles them, and shuffle multiplies them."
        )
    side = min(latent_shape[1:]) * factor
    if side < 2**recipe.scales:  # the coarsest scale needs neighbouring pixels
        raise RecipeRefused(
            f"decoder.scales ({recipe.scales}): pictures of {side} pixels can be halved fewer times."
        )
    return network


class DecoderTask(Trained):
    """The decoder under training, without the rest of its class, for `distillation.training.loop`."""

    def __init__(
        self,
        recipe: DecoderRecipe,
        *,
        teacher: Teacher,
        pairs: Pairs,
        real_images: RealImages | None = None,
    ) -> None:
        """pairs: of this teacher. Raises RecipeRefused."""
        super().__init__()
        channels, height, width = pairs.latents.shape[1:]
        made = fitting(recipe, teacher=teacher, latent_shape=(channels, height, width))
        self.network = made.to(teacher.device)
        self._recipe = recipe
        self._teacher = teacher
        self.network.encoder.requires_grad_(False)
        # A fifth faster than the default memory layout on a CPU with bf16.
        trained = self.network.decoder.to(memory_format=torch.channels_last)
        self._latents = _with_noisy(pairs.latents.float(), recipe)
        self._prompts = pairs.prompts.repeat(len(self._latents) // len(pairs))
        self._targets = VaePictures(teacher, self._latents)
        # With Muon the PSNR after 200 steps is 1.7 dB higher than with AdamW (docs/experiments.md).
        self.add_by(recipe, "decoder", trained, weight_decay=recipe.weight_decay, is_muon=True)
        self._loss = PictureLoss(recipe, self, device=teacher.device, real_images=real_images)

    def averaged(self) -> AutoencoderTiny:
        """Return the decoder to save: the trained network with the averaged weights, frozen."""
        return with_weights(self.network, self.emas["decoder"].module)

    def pictures(self, samples: Samples) -> Tensor:
        """Return the averaged decoder's pictures of the teacher's latents, [B, 3, H, W] in [−1, 1]."""
        return samples.drawn(self.emas["decoder"].module, samples.latents)

    def step(self, index: int, generator: Generator) -> dict[str, float]:
        recipe = self._recipe
        loop.anneal(self.optimizers["decoder"], index, recipe)
        rows = torch.randint(
            len(self._latents), (processes.share(recipe.batch),), generator=generator
        )
        latents = self._latents[rows].to(self._teacher.device)
        targets = self._targets.of(rows.tolist())
        with self._teacher.autocast():
            output = decoded(self.network, latents)
        loss, errors = self._loss(index, output.float(), targets, self._prompts[rows], generator)
        norm = self.update("decoder", loss, clipped_norm=recipe.clipped_norm)
        measured = {name: float(value.detach()) for name, value in {"loss": loss, **errors}.items()}
        return measured | self._loss.learn(index, generator) | {"gradient_norm": norm}


def with_weights(network: AutoencoderTiny, decoder: nn.Module) -> AutoencoderTiny:
    """Return the network with the weights of this decoder, frozen, in evaluation mode; it is changed in place."""
    network.decoder.load_state_dict(decoder.state_dict())
    # safetensors writes only contiguous tensors.
    return network.to(memory_format=torch.contiguous_format).requires_grad_(False).eval()


@torch.no_grad()
def measure(decoder: AutoencoderTiny, teacher: Teacher, latents: Tensor) -> dict[str, float]:
    """Return measures of the decoder's pictures of latents [n, C, h, w] against the VAE's.

    psnr: the mean over pictures, dB; psnr_worst: the least. sharpness: the mean difference between neighbouring pixels,
    as a share of that in the VAE's pictures; below 1 is blurred.
    """
    ratios: list[Tensor] = []
    ours, theirs = 0.0, 0.0
    for part in latents.float().to(teacher.device).split(teacher.decoded_at_once):
        with teacher.autocast():
            output = decoded(decoder, part).float()
        output, target = as_uint8(output).cpu(), as_uint8(teacher.decode(part)).cpu()
        ratios.append(psnr(output, target))
        ours += _contrast(output)
        theirs += _contrast(target)
    values = torch.cat(ratios)
    return {
        "pictures": len(values),
        "psnr": round(float(values.mean()), 3),
        "psnr_worst": round(float(values.min()), 3),
        "sharpness": round(ours / theirs, 4),
    }


def train(recipe: DecoderRecipe, inputs: StageInputs) -> AutoencoderTiny:
    """Train (resuming from the folder's checkpoint); save the decoder in folder/vae and return it, frozen.

    Writes folder/measured.json: `measure` on the held-out latents. Raises RecipeRefused.
    """
    teacher, pairs, folder = inputs.teacher, inputs.pairs, inputs.folder
    held_out, trained_on = _split(recipe, pairs)
    task = DecoderTask(
        recipe, teacher=teacher, pairs=pairs.take(trained_on), real_images=inputs.real_images
    )
    run(task, recipe, inputs, title="decoder", pictures=task.pictures)
    decoder = task.averaged()
    networks.save(decoder, folder / "vae")
    if processes.is_main():
        measured = measure(decoder, teacher, pairs.latents[held_out])
        atomic.write_file(folder / MEASURED, json.dumps(measured, indent=1) + "\n")
    processes.barrier()
    return decoder


def _split(recipe: DecoderRecipe, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Return (held-out rows, rows for training), int64, each evenly selected from the pairs."""
    if len(pairs) <= recipe.validated:
        raise RecipeRefused(
            f"decoder.validated ({recipe.validated}) must be less than the {len(pairs)} pairs: nothing would be left "
            "to train on."
        )
    held_out = torch.linspace(0, len(pairs) - 1, recipe.validated).round().long()
    is_left = torch.ones(len(pairs), dtype=torch.bool)
    is_left[held_out] = False
    left = is_left.nonzero()[:, 0]
    chosen = torch.linspace(0, len(left) - 1, min(recipe.pictures, len(left))).round().long()
    return held_out, left[chosen]


def _with_noisy(latents: Tensor, recipe: DecoderRecipe) -> Tensor:
    """Return [2n, …]: the latents, then the same with noise, which is equal in every session of a training."""
    if not recipe.latent_noise:
        return latents
    generator = Generator().manual_seed(recipe.seed)
    noise = torch.randn(latents.shape, generator=generator)
    return torch.cat([latents, latents + recipe.latent_noise * noise])


def _contrast(pixels: Tensor) -> float:
    values = pixels.float()
    return float(values.diff(dim=2).abs().sum() + values.diff(dim=3).abs().sum())
