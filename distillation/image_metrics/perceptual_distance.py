"""Perceptual distance of two pictures, on the feature maps of a trained network.

The distance is LPIPS without its fitted weights (Zhang et al. 2018, arXiv 1801.03924, eq. 1, w = 1): at every place of
every layer the channels are scaled to length 1, and the squared differences are averaged over places and layers. 0 =
equal, at most 4. Values of different networks are not comparable.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional

from distillation.detector.network import Detector, as_float, resized

Maps = Callable[[Tensor], Sequence[Tensor]]  # uint8 [N, 3, height, width] → per layer [N, C, …]


def vectors(maps: Sequence[Tensor]) -> Tensor:
    """Return rows, fp32 [N, all values], whose squared distance is the distance between the pictures.

    maps: [N, C, …] of each layer, places last.
    """
    rows = []
    for values in maps:
        flat = functional.normalize(values.float().flatten(2), dim=1)
        rows.append(flat.flatten(1) / (len(maps) * flat.shape[2]) ** 0.5)
    return torch.cat(rows, dim=1)


def between(a: Tensor, b: Tensor) -> Tensor:
    """Return the distance of each pair, fp32 [N]. a, b: `vectors` [N, …]."""
    return (a - b).square().sum(1)


def spread(rows: Tensor) -> float:
    """Return the mean distance over all pairs of N ≥ 2 pictures. rows: `vectors` [N, …]."""
    if len(rows) < 2:
        raise ValueError("spread: give at least two pictures.")
    # Σ over pairs ‖a − b‖² = N Σ ‖a − mean‖²: no table of N² distances.
    centred = rows.double() - rows.double().mean(0)
    return float(2 * centred.square().sum() / (len(rows) - 1))


def of_detector(detector: Detector) -> Maps:
    """Return a function to the feature maps at the end of each stage of the detector."""
    ends = set(accumulate(detector.config.depths))

    @torch.inference_mode()
    def maps(images: Tensor) -> list[Tensor]:
        values = detector.stem(as_float(resized(images, detector.config.image_size)))
        found = [values] if 0 in ends else []
        for number, block in enumerate(detector.blocks, start=1):
            values = block(values)
            if number in ends:
                found.append(values)
        return found

    return maps
