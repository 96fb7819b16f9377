"""Discriminator: small heads on frozen features of the teacher's U-Net.

The teacher's input is noised latents with their prompt, so its features depend on the prompt at every noise level. Only
the heads are trained: this is cheap and keeps the adversarial loss out of the fake score (as in NVIDIA's FastGen; DMD2,
arXiv 2405.14867, has its head on the fake score instead).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distillation.losses import adversarial
from distillation.trainers.perception import tapped
from distillation.trainers.teacher import Teacher
from distillation.training import checks
from distillation.training.errors import RecipeRefused


@dataclass(frozen=True)
class AdversarialRecipe:
    """learn_after, gan_after: steps before the heads are trained, and before their loss is added to the student's.

    layers: modules of the teacher's U-Net whose outputs are the heads' inputs. field_share: share of the real latents
    that come from accepted real pictures, for prompt variants that have any.
    """

    learn_after: int = 50
    gan_after: int = 100
    gan_weight: float = 1e-3  # of the student's adversarial loss
    layers: tuple[str, ...] = ("down_blocks.0", "down_blocks.1", "mid_block")
    width: int = 64  # channels inside a head
    learning_rate: float = 2e-4
    r1_weight: float = 0.25  # of E‖∇D‖² at the teacher's latents
    r1_noise: float = 0.05  # s of the approximate R1, in the unit of the latents
    field_share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.learn_after <= self.gan_after:
            raise ValueError(
                f"learn_after must lie from 0 to gan_after ({self.gan_after}), not {self.learn_after}: "
                "the student would be trained by untrained heads."
            )
        checks.positive(self, "learning_rate", "r1_noise", "gan_weight")
        checks.not_negative(self, "r1_weight")
        checks.share(self, "field_share")
        checks.at_least_1(self, "width")
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise ValueError(f"layers must name modules, each once, not {self.layers}.")


class Heads(torch.nn.Module):
    """One head per feature map: normalisation and convolutions to one logit per position."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.heads = torch.nn.ModuleList(
            torch.nn.Sequential(
                # One group, which fits any number of channels.
                torch.nn.GroupNorm(1, count),
                torch.nn.Conv2d(count, width, 3, padding=1),
                torch.nn.SiLU(),
                torch.nn.Conv2d(width, 1, 1),
            )
            for count in channels
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return logits fp32 [B, N], high for the teacher's: N positions of all maps [B, C_l, H_l, W_l] together."""
        with torch.autocast(maps[0].device.type, enabled=False):
            logits = [
                head(part.float()).flatten(1) for head, part in zip(self.heads, maps, strict=True)
            ]
        return torch.cat(logits, 1)


def make(recipe: AdversarialRecipe, *, teacher: Teacher, seed: int) -> Heads:
    """Return untrained heads, on the teacher's device. Raises RecipeRefused if the teacher lacks one of the layers."""
    known = {name for name, _ in teacher.unet.named_modules()}
    if strange := [name for name in recipe.layers if name not in known]:
        raise RecipeRefused(
            f"layers has {', '.join(strange)}, which the teacher's U-Net lacks. It has "
            f"{', '.join(name for name, _ in teacher.unet.named_children())}, and modules in these."
        )
    latents = torch.zeros(1, *teacher.latent_shape, device=teacher.device)
    embeds = torch.zeros(1, *teacher.manifest.embedding_shape, device=teacher.device)
    times = torch.zeros(1, dtype=torch.int64, device=teacher.device)
    with torch.no_grad():
        maps = features(teacher, latents, times, embeds, layers=recipe.layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = Heads([part.shape[1] for part in maps], recipe.width)
    return heads.to(teacher.device)


def heads_loss(
    recipe: AdversarialRecipe,
    heads: Heads,
    *,
    teacher: Teacher,
    fake: Tensor,
    real: Tensor,
    nearby: Tensor,
    timesteps: Tensor,
    prompt_embeds: Tensor,
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of the heads, and its parts by name.

    fake, real: noised latents [B, C, h, w] of the student and of the teacher (or of real pictures), of the same prompts
    and timesteps; nearby: the real ones with r1_noise · ξ added. `heads_margin`: how much higher the teacher's logits
    are.
    """
    with torch.no_grad():
        maps = features(
            teacher,
            torch.cat([fake, real, nearby]),
            timesteps.repeat(3),
            prompt_embeds.repeat(3, 1, 1),
            layers=recipe.layers,
        )
    of_fake, of_real, of_nearby = heads(maps).chunk(3)
    game = adversarial.discriminator_loss(of_fake, of_real)
    r1 = adversarial.approximate_r1(of_real, of_nearby)
    return game + recipe.r1_weight / recipe.r1_noise**2 * r1, {
        "heads": float(game.detach()),
        "heads_r1": float(r1.detach()),
        "heads_margin": float(of_real.detach().mean() - of_fake.detach().mean()),
    }


def features(
    teacher: Teacher,
    latents: Tensor,
    timesteps: Tensor,
    prompt_embeds: Tensor,
    *,
    layers: Sequence[str],
) -> list[Tensor]:
    """Return the outputs of the `layers` for noised latents, in order; the pass ends with the last of them.

    Shapes as in `Teacher.predict`. Differentiable with respect to the latents if gradients are enabled.
    """
    with tapped(teacher.unet, layers, is_cut_short=True) as maps, teacher.autocast():
        teacher.unet(latents, timesteps, encoder_hidden_states=prompt_embeds, return_dict=False)
    return [maps[name] for name in layers]


def prediction_and_features(
    teacher: Teacher,
    latents: Tensor,
    timesteps: Tensor,
    prompt_embeds: Tensor,
    *,
    layers: Sequence[str],
) -> tuple[Tensor, list[Tensor]]:
    """Return the unguided prediction (fp32, detached) and the features of the same pass with their gradient."""
    with tapped(teacher.unet, layers) as maps, teacher.autocast():
        output: Tensor = teacher.unet(
            latents, timesteps, encoder_hidden_states=prompt_embeds, return_dict=False
        )[0]
    return output.detach().float(), [maps[name] for name in layers]
