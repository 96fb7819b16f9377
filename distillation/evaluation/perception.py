"""How different two pictures look, by the maps of a network that was trained to tell pictures apart. Knows no verdict.

The distance is that of LPIPS without its fitted weights (Zhang et al. 2018, arXiv 1801.03924, eq. 1, w = 1): at every
place of every layer the channels are brought to length 1, and the squared differences are averaged over the places and
the layers. 0 = equal, at most 4. Numbers of two networks do not compare.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional

from distillation.detector.network import Detector, as_float

Maps = Callable[[Tensor], Sequence[Tensor]]  # uint8 [N, 3, height, width] → per layer [N, C, …]


def vectors(maps: Sequence[Tensor]) -> Tensor:
    """fp32 [N, all values]: the squared distance between two rows is the distance between the two pictures.

    maps: of each layer [N, C, …], its places last.
    """
    rows = []
    for values in maps:
        flat = functional.normalize(values.float().flatten(2), dim=1)
        rows.append(flat.flatten(1) / (len(maps) * flat.shape[2]) ** 0.5)
    return torch.cat(rows, dim=1)


def between(a: Tensor, b: Tensor) -> Tensor:
    """fp32 [N]: the distances of as many pairs. a, b: `vectors` [N, …]."""
    return (a - b).square().sum(1)


def spread(rows: Tensor) -> float:
    """The mean distance over all pairs of N ≥ 2 pictures. rows: `vectors` [N, …]."""
    if len(rows) < 2:
        raise ValueError("At least two pictures differ from each other.")
    # Σ over pairs ‖a − b‖² = N Σ ‖a − mean‖²: no table of N² distances.
    centred = rows.double() - rows.double().mean(0)
    return float(2 * centred.square().sum() / (len(rows) - 1))


def of_detector(detector: Detector) -> Maps:
    """The maps at the end of each of its stages."""
    ends = set(accumulate(detector.config.depths))

    @torch.inference_mode()
    def maps(images: Tensor) -> list[Tensor]:
        values = detector.stem(as_float(fitted(images, detector.config.image_size)))
        found = [values] if 0 in ends else []
        for number, block in enumerate(detector.blocks, start=1):
            values = block(values)
            if number in ends:
                found.append(values)
        return found

    return maps


def fitted(images: Tensor, size: int) -> Tensor:
    """uint8 [N, 3, size, size]: scaled if they are of another size."""
    if images.shape[-2:] == (size, size):
        return images
    scaled = functional.interpolate(
        images.float(), (size, size), mode="bilinear", antialias=True, align_corners=False
    )
    return scaled.round().clamp(0, 255).to(torch.uint8)
