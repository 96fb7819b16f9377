"""Losses of the adversarial game, from the discriminator's logits.

Logits are of any shape, a batch of single values or of maps; high means "the teacher's". Goodfellow et al., arXiv
1406.2661, in the non-saturating form. All values are means over all logits, in nats.
"""

from torch import Tensor
from torch.nn import functional

from distillation.losses.precision import require_one_shape, wide


def student_loss(fake_logits: Tensor) -> Tensor:
    """E softplus(−D(x)), x the student's. It must not train the discriminator: freeze that."""
    return functional.softplus(-wide(fake_logits)).mean()


def discriminator_loss(fake_logits: Tensor, real_logits: Tensor) -> Tensor:
    """E softplus(D(x)) + E softplus(−D(y)), x the student's (detached images), y the teacher's; 2 log 2 is blind."""
    fake = functional.softplus(wide(fake_logits)).mean()
    return fake + functional.softplus(-wide(real_logits)).mean()


def approximate_r1(real_logits: Tensor, perturbed_logits: Tensor) -> Tensor:
    """E (D(y) − D(y + sξ))², ξ ~ N(0, I): about s² E‖∇D(y)‖² for a small s (Lin et al., arXiv 2501.08316).

    Stands for R1 (Mescheder et al., arXiv 1801.04406) without second derivatives. Both: logits of the same real
    latents, the second of slightly noised ones; the gradient goes into both. The caller's weight is R1's over s².
    """
    require_one_shape(real_logits, perturbed_logits)
    return (wide(real_logits) - wide(perturbed_logits)).square().mean()
