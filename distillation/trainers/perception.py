"""What the perceptual loss sees of latents: maps of frozen networks that a run has anyway. Knows no student, no loop.

The judges of a release (detector, CLIP) must not be here: what is trained on a judge, that judge cannot judge. Nothing
is fetched either, so no LPIPS network.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from torch import Tensor

from distillation.losses.pairs import pair_regression
from distillation.trainers.teacher import Teacher
from distillation.training.errors import RecipeRefused


@dataclass(frozen=True)
class PerceptionRecipe:
    """features: of FEATURES; levels: how many of its resolutions are seen, in the order of its pass.

    huber_weight, huber_c: of `losses.pairs.pair_regression`, c in the unit of the latents. Maps have no length, so the
    weight is larger than beside an LPIPS of pixels: it alone holds the strength of colours.
    """

    features: str = "decoder"
    levels: int = 2
    huber_weight: float = 0.5
    huber_c: float = 1e-3

    def __post_init__(self) -> None:
        if self.features not in FEATURES:
            raise ValueError(
                f"features must be one of {', '.join(FEATURES)}, not {self.features!r}."
            )
        if self.levels < 1:
            raise ValueError(f"levels must be at least 1, not {self.levels}.")
        if not 0 <= self.huber_weight < math.inf:
            raise ValueError(f"huber_weight must not be negative, not {self.huber_weight}.")
        if not 0 < self.huber_c < math.inf:
            raise ValueError(f"huber_c must be above 0, not {self.huber_c}.")


@dataclass(frozen=True)
class Perception:
    """decoder: latents → what is looked at; features: that → maps [B, C, H, W]. Both frozen, in fp32."""

    recipe: PerceptionRecipe
    decoder: Callable[[Tensor], Tensor]
    features: Callable[[Tensor], Sequence[Tensor]]

    def regression(self, output: Tensor, target: Tensor) -> Tensor:
        """`losses.pairs.pair_regression` of latents [B, C, h, w], the target a constant."""
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
    """Maps of the tiny decoder on the way to its image, before each of its enlargements: the dear rest is not computed.

    The decoder is what serves, so what moves these maps moves the picture.
    """
    layers = decoder.decoder.layers
    ends = [
        str(place - 1) for place, layer in enumerate(layers) if isinstance(layer, torch.nn.Upsample)
    ]
    ends = _first(ends, recipe)

    def features(latents: Tensor) -> Sequence[Tensor]:
        with tapped(layers, ends, is_cut_short=True) as maps:
            decoder.decoder(latents)
        return list(maps.values())

    return Perception(recipe, decoder=lambda latents: latents, features=features)


def _of_vae(recipe: PerceptionRecipe, teacher: Teacher, decoder: AutoencoderTiny) -> Perception:
    """Maps of the teacher's VAE encoder, of the tiny decoder's images. Eight times as dear, on the starter."""
    encoder = teacher.vae.encoder
    ends = _first([f"down_blocks.{level}" for level in range(len(encoder.down_blocks))], recipe)

    def features(images: Tensor) -> Sequence[Tensor]:
        with tapped(encoder, ends, is_cut_short=True) as maps:
            encoder(images)
        return list(maps.values())

    return Perception(
        recipe, decoder=lambda latents: decoder.decode(latents).sample, features=features
    )


def _first(ends: list[str], recipe: PerceptionRecipe) -> list[str]:
    if recipe.levels > len(ends):
        raise RecipeRefused(
            f"levels ({recipe.levels}): the {recipe.features} has {len(ends)} resolutions to look at. Give at most "
            "that many."
        )
    return ends[: recipe.levels]


FEATURES: dict[str, Callable[[PerceptionRecipe, Teacher, AutoencoderTiny], Perception]] = {
    "decoder": _of_decoder,
    "vae": _of_vae,
}


def make(recipe: PerceptionRecipe, *, teacher: Teacher, decoder: AutoencoderTiny) -> Perception:
    """decoder: of the student's release; it is frozen and moved to the teacher's device. Raises RecipeRefused."""
    decoder.requires_grad_(False).eval().to(teacher.device)
    return FEATURES[recipe.features](recipe, teacher, decoder)


class _Enough(Exception):
    """All maps are there: the rest of the pass is not needed."""


@contextmanager
def tapped(
    network: torch.nn.Module, names: Sequence[str], *, is_cut_short: bool = False
) -> Iterator[dict[str, Tensor]]:
    """In the block, passes of the network leave the outputs of its modules `names` in the dict that this gives.

    Of a module that returns several tensors the first counts. is_cut_short: the pass, and the block, end as soon as all
    are there. Raises AttributeError for a module that the network lacks.
    """
    maps: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, _inputs: object, output: Tensor | tuple[Tensor]) -> None:
            maps[name] = output[0] if isinstance(output, tuple) else output
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
            handle.remove()
