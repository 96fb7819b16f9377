"""Means over prompts with bootstrap intervals."""

from math import isfinite

import torch
from torch import Tensor

from distillation.evaluation.results import Both, Pair
from distillation.image_metrics.distances import RESAMPLES, Interval, ends


def over_prompts(values: Tensor, *, together: int = 1) -> Interval:
    """Return the mean and its percentile interval by a bootstrap over prompts. values: [P] or [P, S].

    The pictures of one prompt are similar, so they are drawn together. Prompts without a finite value are left out.
    together: number of intervals that share one probability of error.
    Raises ValueError if none is left.
    """
    rows = of_each(values)
    rows = rows[rows.isfinite()]
    if not len(rows):
        raise ValueError("No prompt has a value.")
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(rows), (RESAMPLES, len(rows)), generator=generator)
    return Interval(float(rows.mean()), *ends(rows[drawn].mean(1), together=together))


def of_each(values: Tensor) -> Tensor:
    """Return the mean over the seeds, fp64 [P]. values: [P] or [P, S]."""
    return values.double().flatten(1).mean(1) if values.ndim > 1 else values.double()


def both(pair: tuple[Tensor, Tensor] | None) -> Both | None:
    """Return the means of student and teacher; None if one of them has no value."""
    if pair is None or not all(of_each(values).isfinite().any() for values in pair):
        return None
    return Both(over_prompts(pair[0]), over_prompts(pair[1]))


def both_of(pair: tuple[Tensor, Tensor]) -> Both:
    """Return the means of student and teacher, of which every prompt has a value."""
    return Both(over_prompts(pair[0]), over_prompts(pair[1]))


def pairs(pair: tuple[Tensor, Tensor] | None, *, prompts: int) -> list[Pair | None]:
    """Return the means over the seeds of each prompt; None where it has no value."""
    if pair is None:
        return [None] * prompts
    columns = zip(*(of_each(values).tolist() for values in pair), strict=True)
    return [Pair(s, t) if isfinite(s) and isfinite(t) else None for s, t in columns]
