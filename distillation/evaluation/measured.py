"""The measurements of every prompt and seed as a file, for comparing releases of different evaluations."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from distillation.evaluation.scoring import Scores
from distillation.resumable import atomic

FILE = "measured.safetensors"
NAMES = ("right", "clip_score", "spread", "gradient")


@dataclass(frozen=True)
class Measured:
    """The measurements of one release by prompt.

    right: all attributes are right, 0 or 1, [P, S], and clip_score [P, S]: None without a judge; spread: the mean
    distance between the pictures of a prompt, [P]; gradient: sharpness [P, S], None in old files.
    """

    slugs: tuple[str, ...]
    right: Tensor | None
    clip_score: Tensor | None
    spread: Tensor
    gradient: Tensor | None = None

    @property
    def seeds(self) -> int | None:
        """Return the number of seeds of each prompt; None if nothing was judged picture by picture."""
        found = (self.right, self.clip_score, self.gradient)
        return next((values.shape[1] for values in found if values is not None), None)

    def take(self, slugs: tuple[str, ...]) -> "Measured":
        """Return the measurements of these prompts, in this order."""
        places = {slug: row for row, slug in enumerate(self.slugs)}
        rows = torch.tensor([places[slug] for slug in slugs], dtype=torch.int64)
        return Measured(
            slugs,
            None if self.right is None else self.right[rows],
            None if self.clip_score is None else self.clip_score[rows],
            self.spread[rows],
            None if self.gradient is None else self.gradient[rows],
        )


def write(slugs: tuple[str, ...], judged: Scores, folder: Path) -> None:
    pairs = {
        "right": judged.right,
        "clip_score": judged.clip_score,
        "spread": judged.spread,
        "gradient": judged.gradient,
    }
    tensors = {
        f"{side}.{name}": pair[place].contiguous()
        for name, pair in pairs.items()
        if pair is not None
        for place, side in enumerate(("student", "teacher"))
    }
    about = {"slugs": json.dumps(slugs)}
    atomic.make_file(folder / FILE, lambda path: save_file(tensors, path, about))


def read(folder: Path, side: str) -> Measured:
    """Read one side, "student" or "teacher", of the evaluation in the folder. Raises OSError if it is missing."""
    with safe_open(folder / FILE, "pt") as file:
        names = set(file.keys())
        right, clip_score, spread, gradient = (
            file.get_tensor(f"{side}.{name}") if f"{side}.{name}" in names else None
            for name in NAMES
        )
        slugs = tuple(json.loads(file.metadata()["slugs"]))
    if spread is None:
        raise OSError(f"{folder / FILE} lacks the spread of the {side}.")
    return Measured(slugs, right, clip_score, spread, gradient)
