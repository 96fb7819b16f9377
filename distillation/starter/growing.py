"""Add a level to a VAE: images of twice the size, the same latents.

The first level of the larger encoder is trained so that an image has the features that the first convolution of the
smaller encoder computes from the image at half its size. The last level of the larger decoder is initialised to
nearest-neighbour upsampling.
"""

from dataclasses import dataclass

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Generator, Tensor
from torch.nn import functional

from distillation.detector.network import as_float
from distillation.training import loop
from distillation.training.optimizers import update
from distillation.training.task import Trained


def grown(vae: AutoencoderKL) -> AutoencoderKL:
    """Return a VAE with one more level, of the first level's width, and the weights of `vae` in the other levels."""
    old = vae.config
    channels = (old.block_out_channels[0], *old.block_out_channels)
    larger = AutoencoderKL.from_config(
        {
            **old,
            "block_out_channels": channels,
            "down_block_types": ("DownEncoderBlock2D",) * len(channels),
            "up_block_types": ("UpDecoderBlock2D",) * len(channels),
            "sample_size": 2 * old.sample_size,
        }
    )
    weights = larger.state_dict()
    for name, value in vae.state_dict().items():
        weights[_renamed(name)] = value
    last = f"decoder.up_blocks.{len(channels) - 2}.upsamplers.0.conv"
    weights[f"{last}.weight"] = torch.nn.init.dirac_(torch.empty_like(weights[f"{last}.weight"]))
    weights[f"{last}.bias"] = torch.zeros_like(weights[f"{last}.bias"])
    for new in ("encoder.down_blocks.0", f"decoder.up_blocks.{len(channels) - 1}"):
        for name in weights:  # the residual branches of new blocks start at zero
            if name.startswith(new) and ".conv2." in name:
                weights[name] = torch.zeros_like(weights[name])
    larger.load_state_dict(weights)
    return larger


def _renamed(name: str) -> str:
    """Return the name in the larger VAE of a weight of the smaller one."""
    prefix = "encoder.down_blocks."
    if not name.startswith(prefix):
        # `encoder.conv_in` keeps its weights as a start and is trained; the decoder's new level is the last.
        return name
    number, rest = name.removeprefix(prefix).split(".", 1)
    return f"{prefix}{int(number) + 1}.{rest}"


@dataclass(frozen=True)
class EncoderRecipe:
    """Training of the new first level of the encoder, on crops."""

    steps: int = 600
    batch: int = 8
    crop: int = 64  # pixels a side
    learning_rate: float = 3e-3  # peak; cosine decay to zero
    warmup: int = 20
    seed: int = 0


class EncoderTask(Trained):
    """Training task of the larger encoder's first convolution and level, for `distillation.training.loop`."""

    def __init__(
        self, recipe: EncoderRecipe, larger: AutoencoderKL, smaller: AutoencoderKL, images: Tensor
    ) -> None:
        """images: uint8 [N, 3, size, size], where `size` is the sample size of the larger VAE."""
        super().__init__()
        self._recipe, self._images = recipe, images
        self._smaller_conv_in = smaller.encoder.conv_in.requires_grad_(False)
        encoder = larger.encoder
        self.level = torch.nn.ModuleList([encoder.conv_in, encoder.down_blocks[0]])
        self.level.requires_grad_(True)
        self.add(
            "level",
            self.level,
            learning_rate=recipe.learning_rate,
            weight_decay=0.0,
            betas=(0.9, 0.99),
        )

    def step(self, index: int, generator: Generator) -> dict[str, float]:
        recipe = self._recipe
        loop.anneal(self.optimizers["level"], index, recipe)
        crop, size = recipe.crop, self._images.shape[-1]
        rows = torch.randint(len(self._images), (recipe.batch,), generator=generator)
        # Even offsets, so that crops are aligned with the pixels of the image at half size.
        top, left = 2 * torch.randint((size - crop) // 2 + 1, (2,), generator=generator)
        images = as_float(self._images[rows, :, top : top + crop, left : left + crop])
        with torch.no_grad():
            target = self._smaller_conv_in(functional.avg_pool2d(images, 2))
        convolution, block = self.level
        error = functional.mse_loss(block(convolution(images)), target) / target.var()
        update(self.optimizers["level"], error, clipped_norm=1.0)
        return {"loss": error.item()}
