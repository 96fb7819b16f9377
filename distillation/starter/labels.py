"""Labelled folders of photographs: to train the detector or, with planted defective pictures, to test it.

The defects are made in other ways than those in the training of the detector.
"""

from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from distillation.detector import labels
from distillation.detector.labels import Row
from distillation.starter.photographs import Photographs
from distillation.starter.words import ATTRIBUTES, COLOURS

Pixels = NDArray[np.uint8]
PLANTED = 60  # pictures of each defect
TRIES = 200  # random windows tried before giving up


def write(folder: Path, parts: dict[str, Photographs]) -> int:
    """Write a folder for training, with masks; return the number of photographs. parts: "train" and "held-out"."""
    rows = []
    for part, photographs in parts.items():
        for number in range(len(photographs)):
            name = _name(photographs, number)
            file = _save(folder, f"pictures/{name}.png", _pixels(photographs, number))
            mask = _save(folder, f"masks/{name}.png", object_of(photographs.masks[number]) * 255)
            present = frozenset(astuple(photographs.combinations[number]))
            rows.append(Row(file, 0, present, frozenset(), frozenset(), mask, part=part))
    labels.write(folder, rows, ATTRIBUTES)
    return len(rows)


def plant(folder: Path, photographs: Photographs, *, each: int = PLANTED) -> int:
    """Write a folder for testing; return its number of pictures: all photographs, and `each` pictures of each defect.

    Half of the photographs are saved as JPEG.
    """
    rows = []
    for number in range(len(photographs)):
        random = np.random.default_rng([photographs.seeds[number], 11])
        ending = ".png" if random.random() < 0.5 else ".jpg"
        name = f"good/{_name(photographs, number)}{ending}"
        file = _save(
            folder, name, _pixels(photographs, number), quality=int(random.integers(80, 96))
        )
        present = frozenset(astuple(photographs.combinations[number]))
        rows.append(Row(file, 0, present, frozenset(), frozenset()))
    for which, (defect, (make, lacks)) in enumerate(DEFECTS.items()):
        for count in range(each):
            number = (which * each + count) % len(photographs)
            random = np.random.default_rng([photographs.seeds[number], 12, which, count])
            present = frozenset(astuple(photographs.combinations[number]))
            missing = frozenset(lacks)
            if defect == "wrong colour":
                true = photographs.combinations[number].colour
                wrong = str(random.choice([word for word in COLOURS if word != true]))
                present, missing = present - {true} | {wrong}, frozenset({wrong})
            spoilt = make(
                _pixels(photographs, number), object_of(photographs.masks[number]), random
            )
            name = f"{defect.replace(' ', '-')}/{count:03}-{_name(photographs, number)}.png"
            rows.append(
                Row(_save(folder, name, spoilt), 0, present, frozenset(), missing, defect=defect)
            )
    labels.write(folder, rows, ATTRIBUTES)
    return len(rows)


def object_of(mask: torch.Tensor) -> Pixels:
    """Return the connected component of the mask nearest to the centre, uint8 [H, W] of 0 and 1.

    A corner of the frame beyond the edge of the ground is marked as object in the mask; this removes it.
    """
    whole = mask.float()
    places = whole.nonzero()
    if not len(places):
        return mask.numpy()
    middle = torch.tensor(mask.shape) / 2
    first = places[(places - middle).square().sum(1).argmin()]
    grown = torch.zeros_like(whole)
    grown[tuple(first)] = 1
    while True:
        wider = F.max_pool2d(grown[None, None], 3, 1, 1)[0, 0] * whole
        if wider.equal(grown):
            return grown.to(torch.uint8).numpy()
        grown = wider


# --- defects: (picture, mask, random) → picture ---------------------------------------------------
def _as_it_is(picture: Pixels, _mask: Pixels, _random: np.random.Generator) -> Pixels:
    return picture


def _cut_off(picture: Pixels, mask: Pixels, random: np.random.Generator) -> Pixels:
    """Return a window that cuts off between a sixth and two thirds of the object."""
    size = picture.shape[0]
    for _ in range(TRIES):
        side = int(size * random.uniform(0.5, 0.85))
        top, left = random.integers(0, size - side + 1, 2)
        left_in = mask[top : top + side, left : left + side].sum() / mask.sum()
        if 1 / 3 <= left_in <= 5 / 6:
            return _window(picture, int(top), int(left), side)
    raise ValueError("No window cuts the object.")


def _too_small(picture: Pixels, _mask: Pixels, random: np.random.Generator) -> Pixels:
    """Return the picture scaled down, with its edges extended to the size of the frame."""
    size = picture.shape[0]
    side = int(size * random.uniform(0.3, 0.45))
    # Mirror only a narrow margin, which does not contain the object; repeat the edge pixels beyond it.
    small = np.array(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS))
    free = max(1, side // 16)
    room = size - side
    top, left = int(random.integers(room // 4, room - room // 4)), int(random.integers(0, room + 1))
    wide = np.pad(
        small,
        (
            (min(free, top), min(free, room - top)),
            (min(free, left), min(free, room - left)),
            (0, 0),
        ),
        "reflect",
    )
    rows, columns = size - wide.shape[0], size - wide.shape[1]
    above, before = max(0, top - free), max(0, left - free)
    return np.pad(wide, ((above, rows - above), (before, columns - before), (0, 0)), "edge")


def _blurred(picture: Pixels, _mask: Pixels, random: np.random.Generator) -> Pixels:
    """Return the picture with Gaussian blur, scaled up from a thumbnail, or with motion blur."""
    image, size = Image.fromarray(picture), picture.shape[0]
    match random.integers(3):
        case 0:
            return np.array(
                image.filter(ImageFilter.GaussianBlur(size * random.uniform(0.018, 0.045)))
            )
        case 1:
            side = int(size * random.uniform(0.12, 0.25))
            small = image.resize((side, side), Image.Resampling.BOX)
            return np.array(small.resize((size, size), Image.Resampling.BICUBIC))
        case _:
            steps = int(size * random.uniform(0.09, 0.2))
            down, right = random.uniform(-1, 1, 2)
            longest = max(abs(down), abs(right))
            moved = [
                np.roll(picture, (round(s * down / longest), round(s * right / longest)), (0, 1))
                for s in range(-steps // 2, steps // 2 + 1)
            ]
            return np.mean(moved, axis=0).round().astype(np.uint8)


def _blank(picture: Pixels, mask: Pixels, random: np.random.Generator) -> Pixels:
    """Return a plain colour, black or white, or an empty part of the ground."""
    size = picture.shape[0]
    match random.integers(3):
        case 0:
            return np.full_like(picture, random.integers(0, 256, 3))
        case 1:
            return np.full_like(picture, random.choice([0, 255]))
        case _:
            side = size // 5
            for _ in range(TRIES):
                top, left = random.integers(0, size - side + 1, 2)
                if not mask[top : top + side, left : left + side].any():
                    return _window(picture, int(top), int(left), side)
            return np.full_like(picture, 128)


def _noisy(picture: Pixels, _mask: Pixels, random: np.random.Generator) -> Pixels:
    """Return the picture with Gaussian noise or salt-and-pepper noise, or noise alone."""
    match random.integers(3):
        case 0:
            noise = random.normal(0, random.uniform(28, 90), picture.shape)
        case 1:
            noise = np.zeros(picture.shape)
            noise[random.random(picture.shape[:2]) < random.uniform(0.04, 0.25)] = 255
            noise *= random.choice([-1.0, 1.0], picture.shape[:2])[..., None]
        case _:
            return random.integers(0, 256, picture.shape).astype(np.uint8)
    return (picture + noise).round().clip(0, 255).astype(np.uint8)


Defect = Callable[[Pixels, Pixels, np.random.Generator], Pixels]
# By defect: the function that makes it, and the bits that are absent from such a picture.
DEFECTS: dict[str, tuple[Defect, tuple[str, ...]]] = {
    "wrong colour": (_as_it_is, ()),
    "cut off": (_cut_off, ("whole",)),
    "too small": (_too_small, ("large",)),
    "blurred": (_blurred, ("sharp",)),
    "blank": (_blank, ("large",)),  # without an object
    "noise": (_noisy, ("clean",)),
}


# --- files ----------------------------------------------------------------------------------------
def _window(picture: Pixels, top: int, left: int, side: int) -> Pixels:
    """Return a square of the picture, scaled up to the size of the picture."""
    window = Image.fromarray(picture[top : top + side, left : left + side])
    return np.array(window.resize(picture.shape[1::-1], Image.Resampling.LANCZOS))


def _pixels(photographs: Photographs, number: int) -> Pixels:
    """Return a photograph as sRGB, uint8 [H, W, 3]."""
    return photographs.images[number].permute(1, 2, 0).numpy()


def _name(photographs: Photographs, number: int) -> str:
    return f"{photographs.combinations[number].slug}-{photographs.seeds[number]}"


def _save(folder: Path, name: str, pixels: Pixels, *, quality: int = 90) -> str:
    """Write the image and return its name relative to the folder."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=quality)
    return name
