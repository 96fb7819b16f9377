"""Labelled folders of photographs, for training the detector or, with defective pictures planted, for testing it.

Defects are made by other means than the ones of training.
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
TRIES = 200  # at finding a window that cuts an object


def write(folder: Path, parts: dict[str, Photographs]) -> int:
    """Write a folder for training: the photographs of each part ("train", "held-out"), masked. Returns their number."""
    rows = []
    for part, taken in parts.items():
        for number in range(len(taken)):
            name = _name(taken, number)
            file = _save(folder, f"pictures/{name}.png", _pixels(taken, number))
            mask = _save(folder, f"masks/{name}.png", object_of(taken.masks[number]) * 255)
            present = frozenset(astuple(taken.combinations[number]))
            rows.append(Row(file, 0, present, frozenset(), frozenset(), mask, part=part))
    labels.write(folder, rows, ATTRIBUTES)
    return len(rows)


def plant(folder: Path, taken: Photographs, *, each: int = PLANTED) -> int:
    """Write a folder for testing: every photograph, half of them as JPEG, and `each` pictures of each of DEFECTS."""
    rows = []
    for number in range(len(taken)):
        random = np.random.default_rng([taken.seeds[number], 11])
        ending = ".png" if random.random() < 0.5 else ".jpg"
        name = f"good/{_name(taken, number)}{ending}"
        file = _save(folder, name, _pixels(taken, number), quality=int(random.integers(80, 96)))
        present = frozenset(astuple(taken.combinations[number]))
        rows.append(Row(file, 0, present, frozenset(), frozenset()))
    for which, (defect, (make, lacks)) in enumerate(DEFECTS.items()):
        for count in range(each):
            number = (which * each + count) % len(taken)
            random = np.random.default_rng([taken.seeds[number], 12, which, count])
            present = frozenset(astuple(taken.combinations[number]))
            missing = frozenset(lacks)
            if defect == "wrong colour":
                true = taken.combinations[number].colour
                wrong = str(random.choice([word for word in COLOURS if word != true]))
                present, missing = present - {true} | {wrong}, frozenset({wrong})
            spoilt = make(_pixels(taken, number), object_of(taken.masks[number]), random)
            name = f"{defect.replace(' ', '-')}/{count:03}-{_name(taken, number)}.png"
            rows.append(
                Row(_save(folder, name, spoilt), 0, present, frozenset(), missing, defect=defect)
            )
    labels.write(folder, rows, ATTRIBUTES)
    return len(rows)


def object_of(mask: torch.Tensor) -> Pixels:
    """Return the connected part of the mask nearest to the middle, uint8 [H, W] of 0 and 1.

    Where the camera sees past the end of the ground, a corner of the frame would count as object otherwise.
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


# --- defects: (picture, mask, random) to picture --------------------------------------------------
def _as_it_is(picture: Pixels, _mask: Pixels, _random: np.random.Generator) -> Pixels:
    return picture


def _cut_off(picture: Pixels, mask: Pixels, random: np.random.Generator) -> Pixels:
    """Cut a window that leaves out between a sixth and two thirds of the object."""
    size = picture.shape[0]
    for _ in range(TRIES):
        side = int(size * random.uniform(0.5, 0.85))
        top, left = random.integers(0, size - side + 1, 2)
        left_in = mask[top : top + side, left : left + side].sum() / mask.sum()
        if 1 / 3 <= left_in <= 5 / 6:
            return _window(picture, int(top), int(left), side)
    raise ValueError("No window cuts the object.")


def _too_small(picture: Pixels, _mask: Pixels, random: np.random.Generator) -> Pixels:
    """Show the picture from farther away, surrounded by its mirrored edge."""
    size = picture.shape[0]
    side = int(size * random.uniform(0.3, 0.45))
    # Only the edge without the object is mirrored; beyond, the edge is stretched.
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
    """Defocus the picture, scale it up from a thumbnail, or blur it by motion."""
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
    """Return one colour, black or white, or the empty ground."""
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
    """Add the noise of a dark room or of a broken line, or return noise alone."""
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
# By defect, how it is made and the bits that such a picture lacks.
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
    """Scale a part up to the size of the whole."""
    window = Image.fromarray(picture[top : top + side, left : left + side])
    return np.array(window.resize(picture.shape[1::-1], Image.Resampling.LANCZOS))


def _pixels(taken: Photographs, number: int) -> Pixels:
    """Return a photograph as sRGB [H, W, 3]."""
    return taken.images[number].permute(1, 2, 0).numpy()


def _name(taken: Photographs, number: int) -> str:
    return f"{taken.combinations[number].slug}-{taken.seeds[number]}"


def _save(folder: Path, name: str, pixels: Pixels, *, quality: int = 90) -> str:
    """Write the image and return its name relative to the folder."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=quality)
    return name
