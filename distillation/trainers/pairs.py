"""Stage `pairs`: the noise of a seed and the latents that the teacher generates from it, for every prompt variant.

Deterministic trajectories (DDIM, η = 0) of the guided teacher, in one safetensors file per variant. Its name is a hash
of all that the pairs depend on, so a changed catalogue only needs the pairs of its new variants. Files are written
atomically, and an interrupted stage resumes with the missing batches; processes divide the files among each other. A
tenth of the seeds of each variant is held out. A hard variant may have additional files, all for training, which
increases its share of the batches.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from distillation.detector.network import Detector
from distillation.resumable import atomic
from distillation.resumable.progress import Bar
from distillation.trainers import judging
from distillation.trainers.catalogue import Catalogue
from distillation.trainers.schedule import CLEAN
from distillation.trainers.teacher import Teacher
from distillation.trainers.unfinished_pairs import Item, Unfinished
from distillation.training import checks, processes
from distillation.training.errors import RecipeRefused, TrainingError
from generation.engine import sampling

SPLITS = ("train", "held_out")
SUMMARY = "pairs.json"
FIRST_SEED = 2**40  # seeds below it are reserved for evaluations
Piece = TypeVar("Piece")


MAX_SEEDS = 10_000  # of a variant: API clients may set it, and pairs share the disk with images


@dataclass(frozen=True)
class PairsRecipe:
    """num_inference_steps: of the teacher, "trailing"; 0 = the timesteps of its release.

    path_timesteps: timesteps whose x_t are stored, for students of several passes; must be among the teacher's.
    """

    seeds_per_variant: int = 32
    held_out: float = 0.1  # share of the seeds of each variant
    num_inference_steps: int = 20
    path_timesteps: tuple[int, ...] = (749, 499, 249)
    batch: int = 32
    written: int = 256  # pairs written at once: the most that a kill loses
    revision: int = 1

    def __post_init__(self) -> None:
        checks.at_least_1(self, "seeds_per_variant", "batch", "written")
        checks.not_negative(self, "num_inference_steps")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must be between 0 and 1, not {self.held_out}.")
        if not 2 <= self.seeds_per_variant <= MAX_SEEDS:
            raise ValueError(
                f"seeds_per_variant must be from 2, one of which is held out, to {MAX_SEEDS}."
            )
        if self.held_out_seeds >= self.seeds_per_variant:
            raise ValueError(
                f"held_out {self.held_out} holds out all {self.seeds_per_variant} seeds of a variant."
            )
        if any(later >= earlier for earlier, later in pairwise(self.path_timesteps)):
            raise ValueError(f"path_timesteps must be descending, not {self.path_timesteps}.")

    @property
    def held_out_seeds(self) -> int:
        """Return the number of held-out seeds of each variant."""
        return max(1, round(self.held_out * self.seeds_per_variant))


@dataclass(frozen=True)
class Pairs:
    """prompts int64 [n], rows of the catalogue; seeds int64 [n]; latents fp16 [n, C, h, w], the teacher's x₀.

    path fp16 [n, K, C, h, w]: x_t before the teacher's step at each of `path_timesteps`; K = 0 if it was not read.
    accepted bool [n]: the picture shows what the variant states, by the detector; all true without one. margins fp32
    [n]: the least of `attributes.margins`; 1 without a detector.
    """

    prompts: Tensor
    seeds: Tensor
    latents: Tensor
    path: Tensor
    accepted: Tensor
    margins: Tensor
    path_timesteps: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompts)

    def noise(self, rows: Tensor) -> Tensor:
        """Return x_T of the rows, fp32 [B, C, h, w]."""
        return noise_of(self.seeds[rows].tolist(), self.latents.shape[1:])

    def take(self, rows: Tensor) -> "Pairs":
        """Return the pairs of the rows (int64 or bool)."""
        return Pairs(
            **{name: getattr(self, name)[rows] for name in _TENSORS},
            path_timesteps=self.path_timesteps,
        )


_TENSORS = tuple(field.name for field in fields(Pairs) if field.name != "path_timesteps")


def noise_of(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Draw noise fp32 [B, *shape] as the engine does: one CPU generator per image."""
    return torch.stack(
        [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )


def drawn(pairs: Pairs, batch: int, generator: torch.Generator) -> Tensor:
    """Draw rows, int64 [batch], with replacement."""
    return torch.randint(len(pairs), (batch,), generator=generator)


# --- reading --------------------------------------------------------------------------------------
def read(
    folder: Path,
    split: str,
    *,
    only_accepted: bool = False,
    prompts: Sequence[int] | None = None,
    with_path: bool = True,
) -> Pairs:
    """Read the pairs of a split. prompts: rows of the catalogue; None = all. with_path: also `path`, the largest part.

    Raises FileNotFoundError if the stage is not finished, TrainingError for a file that cannot be read, RecipeRefused
    if only_accepted and nothing was accepted.
    """
    summary = json.loads((Path(folder) / SUMMARY).read_text("utf-8"))
    names = [name for name in _TENSORS if name != "prompts" and (with_path or name != "path")]
    rows, columns = _read(Path(folder), summary, split, prompts, names=names)
    if not with_path:
        columns["path"] = columns["latents"][:, None][:, :0]
    pairs = Pairs(
        **{**columns, "accepted": columns["accepted"].bool()},
        prompts=rows,
        path_timesteps=tuple(summary["path_timesteps"]) if with_path else (),
    )
    if not only_accepted or pairs.accepted.all():  # a copy would take as much memory again
        return pairs
    if not pairs.accepted.any():
        raise RecipeRefused(
            "The detector accepts none of the teacher's pictures. Check that it was trained on pictures like the "
            "teacher's and that the variants' tags are its bits, or distil without a detector."
        )
    return pairs.take(pairs.accepted)


def _read(
    folder: Path,
    summary: dict[str, Any],
    split: str,
    prompts: Sequence[int] | None = None,
    *,
    names: Sequence[str],
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the rows of the catalogue, int64 [n], and the tensors of these names, [n, …], of the pairs of a split."""
    kept = summary["seeds_per_variant"] - summary["held_out_seeds"]
    numbers = slice(None, kept) if split == "train" else slice(kept, None)
    files = summary["files"]
    chosen = list(range(len(files)) if prompts is None else prompts)
    named = [(row, files[row]) for row in chosen]
    if split == "train":
        named += [(row, name) for row, name in summary.get("further", ()) if row in set(chosen)]
    # The first seed of each variant, then the second …: every part of the list contains all variants.
    columns: dict[str, Tensor] = {}
    for place, (_, file) in enumerate(named):
        for name, value in _load(folder, file, names, numbers).items():
            if name not in columns:
                shape = (len(value), len(named), *value.shape[1:])
                columns[name] = torch.empty(shape, dtype=value.dtype)
            columns[name][:, place] = value
    count = len(columns[names[0]])
    rows = torch.tensor([row for row, _ in named]).expand(count, -1)
    return rows.flatten(), {name: column.flatten(0, 1) for name, column in columns.items()}


def _load(folder: Path, name: str, tensors: Sequence[str], numbers: slice) -> dict[str, Tensor]:
    """Return tensors of a file by name, of the pairs with these numbers."""
    path = folder / name
    try:
        with safe_open(path, framework="pt") as file:
            return {tensor: file.get_tensor(tensor)[numbers] for tensor in tensors}
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"{path.resolve()} cannot be read: {error}. Delete it and {folder}, and repeat the command: the file is "
            "made again."
        ) from error


# --- making ---------------------------------------------------------------------------------------
def generate(
    recipe: PairsRecipe,
    *,
    teacher: Teacher,
    catalogue: Catalogue,
    detector: Detector | None,
    folder: Path,
    store: Path,
    further: Mapping[int, int] = MappingProxyType({}),
    progress_bar: bool = True,
) -> None:
    """Make the files that `store` lacks, then folder/pairs.json, which names them and counts the accepted pairs.

    store: folder shared by all catalogues with this recipe, teacher and detector. further: number of additional files
    by row of the catalogue. Raises RecipeRefused, SliceOver.
    """
    _require_same_encoder(teacher, catalogue)
    work = _Work(recipe, teacher, catalogue, detector, solver_timesteps(recipe, teacher))
    store = Path(store)
    store.mkdir(parents=True, exist_ok=True)
    found = files(catalogue, store, further)
    missing = [(row, path) for row, path in found if not path.exists()]
    processes.barrier()  # all processes must list the missing files before any is written
    together = max(1, recipe.written // recipe.seeds_per_variant)  # variants
    mine = list(_chunks(missing, together))[processes.rank() :: processes.count()]
    done = len(found) - len(missing)
    with Bar(
        recipe.seeds_per_variant * (done + sum(map(len, mine))),
        title="pairs",
        unit="pair",
        done=recipe.seeds_per_variant * done,
        is_shown=progress_bar and processes.is_main(),
    ) as bar:
        for part in mine:
            _make_files(work, part, bar)
            bar.stop_if_over()
    processes.barrier()
    if processes.is_main():
        _summarise(Path(folder), found, recipe, variants=len(catalogue))
    processes.barrier()


@dataclass(frozen=True)
class _Work:
    """Inputs of all pairs of a stage."""

    recipe: PairsRecipe
    teacher: Teacher
    catalogue: Catalogue
    detector: Detector | None
    timesteps: tuple[int, ...]


def files(catalogue: Catalogue, store: Path, further: Mapping[int, int]) -> list[tuple[int, Path]]:
    """Return (row of the catalogue, file) for all files: one of each variant, then the additional ones."""
    names = keys(catalogue)
    return [
        *((row, store / f"{name}.safetensors") for row, name in enumerate(names)),
        *(
            (row, store / f"{names[row]}-{block}.safetensors")
            for row, blocks in sorted(further.items())
            for block in range(1, blocks + 1)
        ),
    ]


def _make_files(work: _Work, wanted: Sequence[tuple[int, Path]], bar: Bar) -> None:
    """Make these files, each of a row of the catalogue."""
    each = work.recipe.seeds_per_variant
    items = [(row, seed) for row, path in wanted for seed in _seeds(work.recipe, path)]
    unfinished = Unfinished(wanted[0][1], items, batch=work.recipe.batch)
    tensors = unfinished.complete(partial(_solved, work=work), bar, each=work.recipe.written)
    for place, (_, path) in enumerate(wanted):
        of_row = slice(place * each, (place + 1) * each)
        own = {key: value[of_row].contiguous() for key, value in tensors.items()}
        atomic.make_file(path, partial(save_file, own))
    unfinished.remove()


def keys(catalogue: Catalogue) -> list[str]:
    """Return for each variant a hash of all that its pairs depend on, except recipe, teacher and detector."""
    found = []
    for row in range(len(catalogue)):
        digest = hashlib.sha256(catalogue.prompt_embeds[row].contiguous().numpy().tobytes())
        for part in (catalogue.stated, catalogue.wanted):
            if part is not None:
                digest.update(part[row].numpy().tobytes())
        found.append(digest.hexdigest()[:24])
    return found


def _seeds(recipe: PairsRecipe, path: Path) -> range:
    """Return the seeds of a file of `files`; they depend only on its variant, not on the rest of the catalogue."""
    place, block = int(path.stem[:8], 16), int(path.stem.partition("-")[2] or 0)
    first = FIRST_SEED * (1 + block) + place * recipe.seeds_per_variant
    return range(first, first + recipe.seeds_per_variant)


def _require_same_encoder(teacher: Teacher, catalogue: Catalogue) -> None:
    manifest = teacher.manifest
    if catalogue.encoder_fingerprint != manifest.encoder_fingerprint:
        raise RecipeRefused(
            f"catalogue: its embeddings were made by another text encoder ({catalogue.encoder_fingerprint[:12]}…) than "
            f"that of {manifest.name} ({manifest.encoder_fingerprint[:12]}…). Encode the prompt variants for it."
        )
    shape = tuple(catalogue.prompt_embeds.shape[1:])
    if shape != tuple(manifest.embedding_shape):
        raise RecipeRefused(
            f"catalogue: its embeddings are {shape}, those of {manifest.name} {tuple(manifest.embedding_shape)}."
        )


def solver_timesteps(recipe: PairsRecipe, teacher: Teacher) -> tuple[int, ...]:
    """Return the timesteps of the teacher's solver, descending. Raises RecipeRefused."""
    timesteps = teacher.timesteps
    if recipe.num_inference_steps:
        config = teacher.scheduler_config | {"timestep_spacing": "trailing"}
        timesteps = tuple(sampling.default_timesteps(config, recipe.num_inference_steps))
    if strange := [t for t in recipe.path_timesteps if t not in timesteps]:
        raise RecipeRefused(
            f"pairs.path_timesteps has {strange}, which the teacher does not pass in {len(timesteps)} steps: "
            f"choose among {', '.join(map(str, timesteps))}."
        )
    return timesteps


def _chunks(items: Sequence[Piece], size: int) -> Iterator[Sequence[Piece]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


@torch.no_grad()
def _solved(items: Sequence[Item], work: _Work) -> dict[str, Tensor]:
    """Return the tensors of the items' pairs by name."""
    teacher, catalogue = work.teacher, work.catalogue
    rows = torch.tensor([row for row, _ in items])
    seeds = torch.tensor([seed for _, seed in items])
    embeds = catalogue.embeds(rows).to(teacher.device)
    latents = noise_of(seeds.tolist(), teacher.latent_shape).to(teacher.device)
    path = []
    for timestep, following in pairwise((*work.timesteps, CLEAN)):
        if timestep in work.recipe.path_timesteps:
            path.append(latents.half().cpu())
        at = torch.full((len(items),), timestep, device=teacher.device)
        prediction = teacher.predict(latents, at, embeds)
        latents = teacher.schedule.stepped(prediction, latents, at, torch.full_like(at, following))
    stored = (
        torch.stack(path, dim=1)
        if path
        else torch.empty(len(items), 0, *teacher.latent_shape, dtype=torch.float16)
    )
    accepted, margins = judging.judged(latents, rows, teacher, catalogue, work.detector)
    return {
        "seeds": seeds,
        "latents": latents.half().cpu(),
        "path": stored,
        "accepted": accepted.to(torch.uint8),
        "margins": margins,
    }


def _summarise(
    folder: Path, found: Sequence[tuple[int, Path]], recipe: PairsRecipe, *, variants: int
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    named = [(row, os.path.relpath(path, folder)) for row, path in found]
    summary: dict[str, Any] = {
        "path_timesteps": list(recipe.path_timesteps),
        "seeds_per_variant": recipe.seeds_per_variant,
        "held_out_seeds": recipe.held_out_seeds,
        "files": [name for _, name in named[:variants]],
    }
    if len(named) > variants:
        summary["further"] = named[variants:]
    summary["counts"] = {
        split: {"pairs": len(rows), "accepted": int(columns["accepted"].sum())}
        for split in SPLITS
        for rows, columns in [_read(folder, summary, split, names=("accepted",))]
    }
    atomic.write_file(folder / SUMMARY, json.dumps(summary, indent=1) + "\n")
