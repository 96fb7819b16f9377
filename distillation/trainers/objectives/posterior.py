"""Estimate of the posterior of a teacher's weights, by gradients of its own loss on the pairs; stored in a file.

The likelihood of an example is a Gaussian of the hard target around the teacher's unguided prediction, with the
variance τ² of its errors. The Laplace approximation uses its curvature at the trained weights (`students.posterior`).
"""

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from distillation.resumable import atomic
from distillation.resumable.progress import Bar
from distillation.students.posterior import Posterior, fisher, laplace
from distillation.trainers.objectives.batches import Batch, Batches
from distillation.trainers.teacher import Teacher
from distillation.training import checks, processes
from distillation.training.errors import CheckpointUnusable

FILE = "fisher.safetensors"
KEPT_EVERY = 16  # batches: the most that an interruption loses


@dataclass(frozen=True)
class PosteriorRecipe:
    """batches: number of batches whose squared gradients are averaged.

    examples: N, the number of training examples; None = the number of pairs. precision: λ of the teacher's own prior,
    its weight decay.
    """

    batches: int = 128
    examples: int | None = None
    precision: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        checks.at_least_1(self, "batches", "examples")
        checks.not_negative(self, "precision")


@dataclass(frozen=True)
class Estimate:
    """posterior: of the teacher's weights, under their names; variance: τ², in squared units of the prediction.

    values: d, the numbers of one prediction; examples: N.
    """

    posterior: Posterior
    variance: float
    values: int
    examples: int


@dataclass(frozen=True)
class _Sums:
    """Sums over the batches so far. squares: of ∂(½ ‖error‖²) ÷ ∂w: the Fisher information × τ⁴ × `batches`."""

    batches: int
    squares: dict[str, Tensor]
    errors: float  # sum of the batches' mean squared errors


def estimate(
    recipe: PosteriorRecipe,
    *,
    teacher: Teacher,
    batches: Batches,
    examples: int,
    folder: Path,
    progress_bar: bool = True,
) -> Estimate:
    """Return the estimate, resuming from folder/fisher.safetensors if that is incomplete. Raises CheckpointUnusable.

    batches: only their noised samples are used. examples: N if the recipe has none. The main process computes for all.
    """
    path = Path(folder) / FILE
    if processes.is_main():
        _accumulate(recipe, teacher, batches, path, progress_bar)
    processes.barrier()
    sums = _read(path, recipe)
    if sums is None or sums.batches < recipe.batches:
        raise CheckpointUnusable(path, f"does not hold {recipe.batches} batches")
    variance = sums.errors / sums.batches
    information = {
        name: total / (sums.batches * variance**2) for name, total in sums.squares.items()
    }
    count = recipe.examples or examples
    mean = {name: value.detach().cpu() for name, value in teacher.unet.named_parameters()}
    known = laplace(
        mean,
        information,
        examples=count,
        precision=recipe.precision,
    )
    channels, height, width = teacher.latent_shape
    return Estimate(known, variance, channels * height * width, count)


def _accumulate(
    recipe: PosteriorRecipe, teacher: Teacher, batches: Batches, path: Path, progress_bar: bool
) -> None:
    sums = _read(path, recipe) or _Sums(0, {}, 0.0)
    if sums.batches >= recipe.batches:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    network: UNet2DConditionModel = copy.deepcopy(teacher.unet).requires_grad_(True)
    with Bar(
        recipe.batches,
        title="posterior",
        unit="batch",
        done=sums.batches,
        is_shown=progress_bar,
    ) as bar:
        while sums.batches < recipe.batches:
            done = sums.batches
            stop = min(recipe.batches, done + KEPT_EVERY)
            sums = _more(sums, range(done, stop), recipe, network, teacher, batches)
            _write(path, sums, recipe)
            bar.add(stop - done)
            bar.stop_if_over()


def _more(
    sums: _Sums,
    indices: range,
    recipe: PosteriorRecipe,
    network: UNet2DConditionModel,
    teacher: Teacher,
    batches: Batches,
) -> _Sums:
    """Return the sums with the batches of these indices added."""
    parameters = dict(network.named_parameters())
    errors = []

    def gradients(batch: Batch) -> dict[str, Tensor]:
        count = len(batch.hard)  # only the first samples have hard targets
        drawn = batch.latents[:count], batch.timesteps[:count], batch.prompt_embeds[:count]
        prediction = teacher.passed(network, *drawn)
        squares = (prediction - batch.hard).square().flatten(1)
        errors.append(float(squares.detach().mean()))
        found = torch.autograd.grad(
            0.5 * squares.sum(1).mean(), list(parameters.values()), materialize_grads=True
        )
        return dict(zip(parameters, found, strict=True))

    found = fisher(
        gradients,
        (batches.draw(_generator(recipe.seed, index)) for index in indices),
        examples_per_batch=batches.noised,
    )
    squares = {name: value.cpu() * len(indices) for name, value in found.items()}
    if sums.squares:
        squares = {name: sums.squares[name] + value for name, value in squares.items()}
    return _Sums(indices.stop, squares, sums.errors + sum(errors))


def _generator(seed: int, index: int) -> torch.Generator:
    """Return the batch's generator, which does not depend on interruptions of the estimate."""
    return torch.Generator().manual_seed((seed * 1_000_003 + index) * 0x9E3779B97F4A7C15 % 2**63)


# --- the file -------------------------------------------------------------------------------------
def _write(path: Path, sums: _Sums, recipe: PosteriorRecipe) -> None:
    state = {"batches": sums.batches, "errors": sums.errors, "seed": recipe.seed}
    atomic.make_file(path, lambda new: save_file(sums.squares, new, {"state": json.dumps(state)}))


def _read(path: Path, recipe: PosteriorRecipe) -> _Sums | None:
    """Return the sums so far; None if there is no file. Raises CheckpointUnusable."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            state = json.loads(file.metadata()["state"])
            squares = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        sums = _Sums(int(state["batches"]), squares, float(state["errors"]))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointUnusable(path, f"cannot be read: {error}") from error
    if state["seed"] != recipe.seed or sums.batches > recipe.batches:
        raise CheckpointUnusable(path, "was made by another recipe")
    return sums
