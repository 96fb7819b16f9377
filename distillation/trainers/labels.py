"""Soft labels: a loss between the detector's class probabilities for the student's and for the teacher's pictures.

Hinton et al., arXiv 1503.02531. The classes are the mutually exclusive bits of each of the detector's groups.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from distillation.detector.network import Detector
from distillation.losses.soft_targets import soft_loss, target_log_probabilities
from distillation.training import checks


@dataclass(frozen=True)
class LabelsRecipe:
    """weight: of the term in the loss of the stage joint; temperature: T, of both softmaxes."""

    weight: float = 0.01
    temperature: float = 2.0

    def __post_init__(self) -> None:
        checks.positive(self, "weight", "temperature")


class Labels:
    """The loss term for one detector, which is frozen, in evaluation mode, and moved to the pictures' device."""

    def __init__(self, recipe: LabelsRecipe, detector: Detector) -> None:
        self.recipe = recipe
        self._detector = detector

    def loss(self, drawn: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over the groups of T² · KL(teacher's picture ‖ student's). Both: [B, 3, H, W] in [−1, 1]."""
        temperature = self.recipe.temperature
        with torch.no_grad():
            wanted = self._groups(targets)
        terms = [
            soft_loss(
                ours,
                target_log_probabilities(theirs, temperature=temperature),
                temperature=temperature,
            )
            for ours, theirs in zip(self._groups(drawn), wanted, strict=True)
        ]
        return torch.stack(terms).mean()

    def _groups(self, images: Tensor) -> list[Tensor]:
        """Return the logits of each group, [B, bits]; a single bit is paired with its absence, of logit 0."""
        config = self._detector.config
        size = (config.image_size, config.image_size)
        if images.shape[-2:] != size:
            images = functional.interpolate(images, size, mode="bilinear", antialias=True)
        logits = self._detector.to(images.device)(images) / self._detector.temperatures
        return [
            part if part.shape[1] > 1 else functional.pad(part, (1, 0))
            for part in logits.split(list(config.groups), dim=1)
        ]
