"""Judging of the teacher's pictures: whether they show, by the detector, what their variants state."""

import torch
from torch import Tensor

from distillation.detector.network import Detector, resized
from distillation.evaluation import attributes
from distillation.trainers.catalogue import Catalogue
from distillation.trainers.teacher import Teacher
from generation.engine.latents import as_uint8


def judged(
    latents: Tensor, rows: Tensor, teacher: Teacher, catalogue: Catalogue, detector: Detector | None
) -> tuple[Tensor, Tensor]:
    """Return whether the pictures show what their variants state, bool [B], and by what margin, fp32 [B]."""
    if detector is None or catalogue.stated is None or catalogue.wanted is None:
        return torch.ones(len(rows), dtype=torch.bool), torch.ones(len(rows))
    images = as_uint8(teacher.decode(latents)).cpu()
    config = detector.config
    probabilities = detector.probabilities(resized(images, config.image_size))
    margins = attributes.margins(
        probabilities,
        wanted=catalogue.wanted[rows],
        stated=catalogue.stated[rows],
        groups=config.groups,
        thresholds=detector.thresholds,
    )
    accepted = as_stated(
        probabilities, rows, catalogue, groups=config.groups, thresholds=detector.thresholds
    )
    return accepted, margins.amin(1)


def as_stated(
    probabilities: Tensor,
    rows: Tensor,
    catalogue: Catalogue,
    *,
    groups: tuple[int, ...],
    thresholds: Tensor,
) -> Tensor:
    """Return whether pictures are as stated, bool [B], by the evaluation's rule.

    probabilities [B, bits]; rows: of the catalogue, int64 [B]; thresholds [bits].
    """
    if catalogue.stated is None or catalogue.wanted is None:
        raise ValueError("The catalogue states no bits.")
    return attributes.groups_right(
        probabilities,
        wanted=catalogue.wanted[rows],
        stated=catalogue.stated[rows],
        groups=groups,
        thresholds=thresholds,
    ).all(1)
