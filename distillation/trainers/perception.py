"""Features for the perceptual loss of latents: maps of frozen networks that a run already has.

The networks that judge a release (detector, CLIP) must not be used here: their judgement of a student that was trained
on them would be worthless. Nothing is downloaded, so there is no LPIPS network.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from torch import Tensor

from distillation.losses.pairs import pair_regression
from distillation.trainers.teacher import Teacher
from distillation.training import checks
from distillation.training.errors import RecipeRefused
from generation.engine.latents import decoded


@dataclass(frozen=True)
class PerceptionRecipe:
    """features: one of FEATURES; levels: number of its resolutions that are used, in the order of its pass.

    huber_weight, huber_c: of `losses.pairs.pair_regression`, c in the unit of the latents. The maps are normalised, so
    only the Huber term constrains the strength of colours, and its weight is larger than with LPIPS on pixels.
    """

    features: str = "decoder"
    levels: int = 2
    huber_weight: float = 0.5
    huber_c: float = 1e-3

    def __post_init__(self) -> None:
        checks.one_of(self, "features", FEATURES)
        checks.at_least_1(self, "levels")
        checks.not_negative(self, "huber_weight")
        checks.positive(self, "huber_c")


@dataclass(frozen=True)
class Perception:
    """decoder: latents → input of `features`; features: that → maps [B, C, H, W]. Both frozen, in fp32."""

    recipe: PerceptionRecipe
    decoder: Callable[[Tensor], Tensor]
    features: Callable[[Tensor], Sequence[Tensor]]

    def regression(self, output: Tensor, target: Tensor) -> Tensor:
        """Return `losses.pairs.pair_regression` of latents [B, C, h, w], a scalar; the target is a constant."""
        return pair_regression(
            output,
            target,
            decoder=self.decoder,
            features=self.features,
            huber_weight=self.recipe.huber_weight,
            c=self.recipe.huber_c,
        )


def _of_decoder(
    recipe: PerceptionRecipe, _teacher: Teacher, decoder: AutoencoderTiny
) -> Perception:
    """Return a perception by maps of the tiny decoder before each upsampling; its expensive rest is not computed.

    This decoder is served, so a change of these maps is a change of the picture.
    """
    layers = decoder.decoder.layers
    enlarging = [
        place for place, layer in enumerate(layers) if isinstance(layer, torch.nn.Upsample)
    ]
    if decoder.config.out_channels > 3:  # a pixel shuffle follows the last layer
        enlarging.append(len(layers) - 1)
    ends = _first([str(place - 1) for place in enlarging], recipe)

    def features(latents: Tensor) -> Sequence[Tensor]:
        with tapped(layers, ends, is_cut_short=True) as maps:
            decoder.decoder(latents)
        return list(maps.values())

    return Perception(recipe, decoder=lambda latents: latents, features=features)


def _of_vae(recipe: PerceptionRecipe, teacher: Teacher, decoder: AutoencoderTiny) -> Perception:
    """Return a perception by maps of the teacher's VAE encoder for the decoder's images: 8 × slower on the starter."""
    encoder = teacher.vae.encoder
    ends = _first([f"down_blocks.{level}" for level in range(len(encoder.down_blocks))], recipe)

    def features(images: Tensor) -> Sequence[Tensor]:
        with tapped(encoder, ends, is_cut_short=True) as maps:
            encoder(images)
        return list(maps.values())

    return Perception(
        recipe,
        decoder=lambda latents: decoded(decoder, latents),
        features=features,
    )


def _first(ends: list[str], recipe: PerceptionRecipe) -> list[str]:
    if recipe.levels > len(ends):
        raise RecipeRefused(
            f"levels ({recipe.levels}): the {recipe.features} has {len(ends)} resolutions. Give at most "
            "that many."
        )
    return ends[: recipe.levels]


FEATURES: dict[str, Callable[[PerceptionRecipe, Teacher, AutoencoderTiny], Perception]] = {
    "decoder": _of_decoder,
    "vae": _of_vae,
}


def make(recipe: PerceptionRecipe, *, teacher: Teacher, decoder: AutoencoderTiny) -> Perception:
    """Return the perceptual loss. decoder: of the student's release; it is frozen and moved to the teacher's device.

    Raises RecipeRefused.
    """
    decoder.requires_grad_(False).eval().to(teacher.device)
    return FEATURES[recipe.features](recipe, teacher, decoder)


class _Enough(Exception):
    """All outputs are collected: the rest of the pass is not needed."""


@contextmanager
def tapped(
    network: torch.nn.Module,
    names: Sequence[str],
    *,
    is_cut_short: bool = False,
    samples: Tensor | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Yield a dict that collects the outputs of the network's modules `names`, in the order of the pass.

    Of several outputs of a module the first is used. is_cut_short: end the pass, and the block, as soon as all outputs
    are collected. samples: int64, the rows of the batch to keep. Raises AttributeError if the network lacks a module.
    """
    maps: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, _inputs: object, output: Tensor | tuple[Tensor]) -> None:
            first = output[0] if isinstance(output, tuple) else output
            maps[name] = first if samples is None else first[samples]
            if is_cut_short and len(maps) == len(names):
                raise _Enough

        return hook

    modules = {name: network.get_submodule(name) for name in names}  # all of them, before any hook
    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        yield maps
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()  # copies of the network, such as averages, would write here too
