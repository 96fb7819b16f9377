"""Adversarial losses (GAN), from the discriminator's logits.

Logits have any shape, such as a batch of single values or of maps; high logits mean the teacher's images. Goodfellow et
al., arXiv 1406.2661, in the non-saturating form. All losses are means over all logits, in nats.
"""

from torch import Tensor
from torch.nn import functional

from distillation.losses.precision import require_one_shape, wide


def student_loss(fake_logits: Tensor) -> Tensor:
    """Return E softplus(−D(x)), x: the student's images. Freeze the discriminator while it is minimised."""
    return functional.softplus(-wide(fake_logits)).mean()


def discriminator_loss(fake_logits: Tensor, real_logits: Tensor) -> Tensor:
    """Return E softplus(D(x)) + E softplus(−D(y)), x: the student's images, detached, y: the teacher's.

    2 log 2 is the loss of a discriminator that cannot tell them apart.
    """
    fake = functional.softplus(wide(fake_logits)).mean()
    return fake + functional.softplus(-wide(real_logits)).mean()


def approximate_r1(real_logits: Tensor, perturbed_logits: Tensor) -> Tensor:
    """Return E (D(y) − D(y + sξ))², ξ ~ N(0, I): about s² E‖∇D(y)‖² for a small s (Lin et al., arXiv 2501.08316).

    Replaces R1 (Mescheder et al., arXiv 1801.04406) without second derivatives: weight it by R1's weight ÷ s². Both
    arguments are logits of the same real latents, the second with slight noise; both get a gradient.
    """
    require_one_shape(real_logits, perturbed_logits)
    return (wide(real_logits) - wide(perturbed_logits)).square().mean()
