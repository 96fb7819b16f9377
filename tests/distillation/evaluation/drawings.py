"""Pictures of shapes on grainy grounds, drawn by PIL: something to blur."""

import random

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor


def drawing(seed: int, *, side: int = 128) -> Image.Image:
    """One to three shapes on a ramp of two colours with fine grain."""
    chosen, grain = random.Random(seed), np.random.default_rng(seed)
    first, last = (np.array([chosen.randrange(60, 220) for _ in range(3)]) for _ in range(2))
    ramp = np.linspace(0, 1, side)[:, None, None]
    ground = first * ramp + last * (1 - ramp) + grain.normal(0, 3, (side, side, 1))
    image = Image.fromarray(ground.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(chosen.randrange(1, 4)):
        x, y, size = (round(side * chosen.uniform(*ends)) for ends in ((0.1, 0.5), (0.1, 0.5), (0.2, 0.4)))  # fmt: skip
        shape = chosen.choice([draw.ellipse, draw.rectangle])
        shape((x, y, x + size, y + size), fill=tuple(chosen.randrange(256) for _ in range(3)))
    return image


def drawings(seeds: range, *, blur: float = 0.0, side: int = 128) -> Tensor:
    """As uint8 [N, 3, side, side]. blur: the standard deviation of a Gaussian, in pixels."""
    images = (drawing(seed, side=side).filter(ImageFilter.GaussianBlur(blur)) for seed in seeds)
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images])
