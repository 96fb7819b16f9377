"""Means over training seeds and prompts, with intervals from a bootstrap over both."""

import torch
from torch import Tensor

from distillation.image_metrics.distances import RESAMPLES, Interval, ends


def mean(values: Tensor) -> Interval:
    """Return the mean with its percentile interval. values: [N, P], of N trainings and P prompts.

    Trainings and prompts are drawn, each with replacement: the pictures of one prompt are correlated, and so are those
    of one training. With few trainings the interval is too narrow; the report also has the mean of each.
    Prompts with a value that is not finite are left out. Raises ValueError if none is left.
    """
    values = values.double()
    values = values[:, values.isfinite().all(0)]
    trainings, prompts = values.shape
    if not prompts:
        raise ValueError("No prompt has a value.")
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(prompts, (RESAMPLES, prompts), generator=generator)
    chosen = torch.randint(trainings, (RESAMPLES, trainings), generator=generator)
    of_trainings = torch.stack([row[rows].mean(1) for row in values], dim=1)  # [R, N]
    return Interval(float(values.mean()), *ends(of_trainings.gather(1, chosen).mean(1)))


def difference(ours: Tensor, baseline: Tensor) -> Interval:
    """Return the mean of ours − baseline, paired by the seeds of the trainings and by prompts. Both: [N, P]."""
    return mean(ours.double() - baseline.double())
