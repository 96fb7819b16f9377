"""Growth of a VAE by a level: the same latents, pictures of twice the size.

The photographs at half their size have the latents; the new first level of the encoder learns to give what the
old one's first convolution gives for them, and the new last level of the decoder begins by repeating pixels.
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
    """Return a VAE of one level more, as wide as the first one, with the weights of `vae` in the others."""
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
        for name in weights:  # new blocks begin as their shortcuts
            if name.startswith(new) and ".conv2." in name:
                weights[name] = torch.zeros_like(weights[name])
    larger.load_state_dict(weights)
    return larger


def _renamed(name: str) -> str:
    """Return where a weight of the smaller VAE belongs in the grown one."""
    prefix = "encoder.down_blocks."
    if not name.startswith(prefix):
        # The first convolution is trained anew; the decoder's new block is the last.
        return name
    number, rest = name.removeprefix(prefix).split(".", 1)
    return f"{prefix}{int(number) + 1}.{rest}"


@dataclass(frozen=True)
class EncoderRecipe:
    """Training of the new first level of the encoder, on crops."""

    steps: int = 600
    batch: int = 8
    crop: int = 64  # pixels a side
    learning_rate: float = 3e-3  # peak; half a cosine to zero
    warmup: int = 20
    seed: int = 0


class EncoderTask(Trained):
    """The first convolution and level of the grown encoder, for `distillation.training.loop`."""

    def __init__(
        self, recipe: EncoderRecipe, larger: AutoencoderKL, smaller: AutoencoderKL, images: Tensor
    ) -> None:
        """images: uint8 [N, 3, size, size], of the grown VAE's size."""
        super().__init__()
        self._recipe, self._images = recipe, images
        self._target = smaller.encoder.conv_in.requires_grad_(False)
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
        size, whole = recipe.crop, self._images.shape[-1]
        rows = torch.randint(len(self._images), (recipe.batch,), generator=generator)
        # Even places only, so that a pixel of the half covers four whole ones.
        top, left = 2 * torch.randint((whole - size) // 2 + 1, (2,), generator=generator)
        images = as_float(self._images[rows, :, top : top + size, left : left + size])
        with torch.no_grad():
            wanted = self._target(functional.avg_pool2d(images, 2))
        convolution, block = self.level
        error = functional.mse_loss(block(convolution(images)), wanted) / wanted.var()
        update(self.optimizers["level"], error, clipped_norm=1.0)
        return {"loss": error.item()}
