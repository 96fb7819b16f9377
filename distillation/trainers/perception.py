"""Features for the perceptual loss of latents: maps of frozen networks that a run has already.

The networks that judge a release (detector, CLIP) must not be used here: a judgement of what was trained on it would be
worthless. Nothing is downloaded, so there is no LPIPS network.
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
    """features: of FEATURES; levels: how many of its resolutions are seen, in the order of its pass.

    huber_weight, huber_c: of `losses.pairs.pair_regression`, c in the unit of the latents. Maps have no length, so the
    weight is larger than with an LPIPS of pixels: it alone holds the strength of colours.
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
    """Use maps of the tiny decoder before each of its enlargements; the expensive rest of it is not computed.

    The decoder serves, so what changes these maps changes the picture.
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
    """Use maps of the teacher's VAE encoder, of the tiny decoder's images. Eight times as slow, on the starter."""
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
            f"levels ({recipe.levels}): the {recipe.features} has {len(ends)} resolutions to look at. Give at most "
            "that many."
        )
    return ends[: recipe.levels]


FEATURES: dict[str, Callable[[PerceptionRecipe, Teacher, AutoencoderTiny], Perception]] = {
    "decoder": _of_decoder,
    "vae": _of_vae,
}


def make(recipe: PerceptionRecipe, *, teacher: Teacher, decoder: AutoencoderTiny) -> Perception:
    """Make the perceptual loss. decoder: of the student's release; frozen, moved to the teacher's device.

    Raises RecipeRefused.
    """
    decoder.requires_grad_(False).eval().to(teacher.device)
    return FEATURES[recipe.features](recipe, teacher, decoder)


class _Enough(Exception):
    """All maps are there: the rest of the pass is not needed."""


@contextmanager
def tapped(
    network: torch.nn.Module,
    names: Sequence[str],
    *,
    is_cut_short: bool = False,
    samples: Tensor | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of the network's modules `names` in the dict that this yields, in the order of the pass.

    Of a module that returns several tensors the first is taken. is_cut_short: the pass, and the block, end as soon as
    all are there. samples: int64, only these of the batch. Raises AttributeError for a module that the network lacks.
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
            handle.remove()  # else copies of the network, as averages are, would write here too
