"""Distribution matching: brings the distribution of the student's images to the teacher's, by the scores of both.

Yin et al., DMD2, arXiv 2405.14867. The inputs are predictions of x₀ (`predictions.converted`).
"""

import torch
from torch import Tensor

from distillation.losses.precision import require_one_shape, wide

RATIO_LIMITS = (0.1, 20.0)  # of the density ratio, f-distill
TIME_BINS = 10


def matching_gradient(latents: Tensor, real_x0: Tensor, fake_x0: Tensor) -> Tensor:
    """Return g = (x̂_fake − x̂_real) ÷ mean|x − x̂_real|, the mean per sample, [B, ...], detached; 0 where not finite.

    latents: x, the student's output. real_x0: the guided teacher's estimate of x₀ from x noised to a random step;
    fake_x0: that of the fake score, without guidance, from the same noised x.
    """
    require_one_shape(latents, real_x0, fake_x0)
    x, real, fake = (wide(tensor.detach()) for tensor in (latents, real_x0, fake_x0))
    scale = (x - real).abs().flatten(1).mean(1).view((-1,) + (1,) * (x.ndim - 1))
    return torch.nan_to_num((fake - real) / scale, nan=0.0, posinf=0.0, neginf=0.0)


def distribution_matching(
    latents: Tensor, real_x0: Tensor, fake_x0: Tensor, *, weights: Tensor | None = None
) -> Tensor:
    """Return ½ mean‖x − sg(x − g)‖² with g of `matching_gradient`; its gradient in x is g ÷ (number of values).

    weights: [B], factors of g (`f_distill_weights`); None is 1. The value is ½ mean g², not a distance: it does not
    fall as the student improves. Latents that are not finite give a loss that is not finite.
    """
    gradient = matching_gradient(latents, real_x0, fake_x0)
    if weights is not None:
        if weights.shape != gradient.shape[:1]:
            raise ValueError(f"weights must be [{len(gradient)}], not {list(weights.shape)}.")
        gradient = gradient * weights.detach().to(gradient).view((-1,) + (1,) * (gradient.ndim - 1))
    x = wide(latents)
    # x − sg(x) is 0: x − sg(x − g) would round g away where it is small against x.
    return 0.5 * (x - x.detach() + gradient).square().mean()


def f_distill_weights(logits: Tensor, timesteps: Tensor, *, num_train_timesteps: int) -> Tensor:
    """Return h(r) ÷ mean h(r), [B], detached: the weights of f-distill (Xu et al., arXiv 2502.15681).

    h(r) = r ÷ (1 + r) for the Jensen–Shannon divergence, r = p_teacher ÷ p_student. logits: the discriminator's of the
    student's noised images, [B, ...], high for the teacher's; their mean per sample is log r. r is clipped to
    RATIO_LIMITS and divided by its mean among the samples in the same tenth of the time. timesteps: int [B], in
    0 … num_train_timesteps − 1.
    """
    if timesteps.shape != logits.shape[:1] or timesteps.is_floating_point():
        raise ValueError(
            f"timesteps must be whole numbers [{len(logits)}], not {timesteps.dtype} {list(timesteps.shape)}."
        )
    if not ((timesteps >= 0) & (timesteps < num_train_timesteps)).all():
        raise ValueError(f"timesteps must be in 0 … {num_train_timesteps - 1}.")
    ratio = wide(logits.detach()).reshape(len(logits), -1).mean(1).exp().clamp(*RATIO_LIMITS)
    bins = timesteps.to(ratio.device).long() * TIME_BINS // num_train_timesteps
    sums = ratio.new_zeros(TIME_BINS).index_add_(0, bins, ratio)
    counts = torch.bincount(bins, minlength=TIME_BINS)
    importance = 1 - 1 / (1 + ratio / (sums / counts)[bins])
    return importance / importance.mean()
