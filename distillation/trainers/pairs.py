"""Owns the pairs: the noise of a seed and what the teacher makes of it, for every prompt variant. Trains nothing.

Deterministic trajectories (DDIM, η = 0) of the guided teacher, kept as shards of safetensors. A shard is written whole
or not at all, so that an interrupted stage goes on with the next one; processes take turns at shards. A tenth of the
seeds of each variant is held out.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from distillation import replacing
from distillation.detector.network import Detector
from distillation.evaluation import attributes, perception
from distillation.trainers import processes
from distillation.trainers.catalogue import Catalogue
from distillation.trainers.errors import RecipeRefused
from distillation.trainers.schedule import CLEAN
from distillation.trainers.teacher import Teacher
from generation.engine import sampling
from generation.engine.latents import as_uint8

SPLITS = ("train", "held_out")
SUMMARY = "pairs.json"
Item = tuple[int, int]  # row of the catalogue, seed


@dataclass(frozen=True)
class PairsRecipe:
    """num_inference_steps: of the teacher, "trailing"; 0 = the timesteps of its release.

    path_timesteps: whose x_t are kept, for a student of several steps; must be among the teacher's.
    """

    seeds_per_variant: int = 32
    held_out: float = 0.1  # share of the seeds of each variant
    first_seed: int = 1_000_000  # evaluations take others, from 0
    num_inference_steps: int = 20
    path_timesteps: tuple[int, ...] = (749, 499, 249)
    batch: int = 32
    shard: int = 256  # pairs
    revision: int = 1

    def __post_init__(self) -> None:
        for name in ("seeds_per_variant", "batch", "shard"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must be between 0 and 1, not {self.held_out}.")
        if self.seeds_per_variant < 2:
            raise ValueError("seeds_per_variant must be at least 2: one of them is held out.")
        if self.held_out_seeds >= self.seeds_per_variant:
            raise ValueError(
                f"held_out {self.held_out} holds out all {self.seeds_per_variant} seeds of a variant."
            )
        if self.num_inference_steps < 0 or self.first_seed < 0:
            raise ValueError("num_inference_steps and first_seed must not be negative.")
        if any(later >= earlier for earlier, later in pairwise(self.path_timesteps)):
            raise ValueError(f"path_timesteps must be descending, not {self.path_timesteps}.")

    @property
    def held_out_seeds(self) -> int:
        """Of each variant."""
        return max(1, round(self.held_out * self.seeds_per_variant))


@dataclass(frozen=True)
class Pairs:
    """prompts int64 [n], rows of the catalogue; seeds int64 [n]; latents fp16 [n, C, h, w], the teacher's x₀.

    path fp16 [n, K, C, h, w]: x_t before the teacher's step at each of `path_timesteps`. accepted bool [n]: the
    detector found what the variant states; all true where nothing judges. margins fp32 [n]: how sure it is, the least
    of `attributes.margins`; 1 where nothing judges.
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
        """x_T of the rows, fp32 [B, C, h, w]."""
        return noise_of(self.seeds[rows].tolist(), self.latents.shape[1:])

    def take(self, rows: Tensor) -> "Pairs":
        """Those of the rows (int64 or bool)."""
        return Pairs(
            **{name: getattr(self, name)[rows] for name in _TENSORS},
            path_timesteps=self.path_timesteps,
        )


_TENSORS = tuple(field.name for field in fields(Pairs) if field.name != "path_timesteps")


def noise_of(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """fp32 [B, *shape], as the engine draws it: one CPU generator per image."""
    return torch.stack(
        [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )


def drawn(pairs: Pairs, batch: int, generator: torch.Generator) -> Tensor:
    """Rows, int64 [batch], with replacement."""
    return torch.randint(len(pairs), (batch,), generator=generator)


# --- reading --------------------------------------------------------------------------------------
def read(folder: Path, split: str, *, only_accepted: bool = False) -> Pairs:
    """Raises FileNotFoundError if the stage is not finished, RecipeRefused if nothing was accepted."""
    summary = json.loads((Path(folder) / SUMMARY).read_text("utf-8"))
    parts = [load_file(Path(folder) / name) for name in summary["shards"][split]]
    pairs = Pairs(
        prompts=torch.cat([part["prompts"] for part in parts]),
        seeds=torch.cat([part["seeds"] for part in parts]),
        latents=torch.cat([part["latents"] for part in parts]),
        path=torch.cat([part["path"] for part in parts]),
        accepted=torch.cat([part["accepted"] for part in parts]).bool(),
        margins=torch.cat([part["margins"] for part in parts]),
        path_timesteps=tuple(summary["path_timesteps"]),
    )
    if not only_accepted:
        return pairs
    if not pairs.accepted.any():
        raise RecipeRefused(
            "The detector accepts none of the teacher's pictures. Check that it was trained on pictures like the "
            "teacher's and that the variants' tags are its bits, or distil without a detector."
        )
    return pairs.take(pairs.accepted)


# --- making ---------------------------------------------------------------------------------------
def generate(
    recipe: PairsRecipe,
    *,
    teacher: Teacher,
    catalogue: Catalogue,
    detector: Detector | None,
    folder: Path,
    progress_bar: bool = True,
) -> None:
    """Write the shards that are missing, then `pairs.json` with how many were accepted. Raises RecipeRefused."""
    _require_same_encoder(teacher, catalogue)
    timesteps = solver_timesteps(recipe, teacher)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shards = _shards(recipe, len(catalogue))
    mine = list(shards.items())[processes.rank() :: processes.count()]
    total = sum(len(items) for _, items in mine)
    with tqdm(
        total=total, desc="pairs", unit="pair", disable=not (progress_bar and processes.is_main())
    ) as bar:
        for name, items in mine:
            if (folder / name).exists():
                bar.update(len(items))
                continue
            parts = []
            for chunk in _chunks(items, recipe.batch):
                parts.append(_solved(chunk, recipe, timesteps, teacher, catalogue, detector))
                bar.update(len(chunk))
            tensors = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
            replacing.make_file(folder / name, partial(save_file, tensors))
    processes.barrier()
    if processes.is_main():
        _summarise(folder, shards, recipe)
    processes.barrier()


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
    """Those that the teacher walks, descending. Raises RecipeRefused."""
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


def _shards(recipe: PairsRecipe, variants: int) -> dict[str, list[Item]]:
    """File name → (row of the catalogue, seed) of its pairs. Every variant has seeds of its own."""
    kept = recipe.seeds_per_variant - recipe.held_out_seeds
    found: dict[str, list[Item]] = {}
    for split, numbers in (
        ("train", range(kept)),
        ("held_out", range(kept, recipe.seeds_per_variant)),
    ):
        items = [
            (row, recipe.first_seed + row * recipe.seeds_per_variant + number)
            for number in numbers
            for row in range(variants)
        ]
        for index, chunk in enumerate(_chunks(items, recipe.shard)):
            found[f"{split}-{index:05}.safetensors"] = chunk
    return found


def _chunks(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


@torch.no_grad()
def _solved(
    items: list[Item],
    recipe: PairsRecipe,
    timesteps: tuple[int, ...],
    teacher: Teacher,
    catalogue: Catalogue,
    detector: Detector | None,
) -> dict[str, Tensor]:
    rows = torch.tensor([row for row, _ in items])
    seeds = torch.tensor([seed for _, seed in items])
    embeds = catalogue.embeds(rows).to(teacher.device)
    latents = noise_of(seeds.tolist(), teacher.latent_shape).to(teacher.device)
    path = []
    for timestep, following in pairwise((*timesteps, CLEAN)):
        if timestep in recipe.path_timesteps:
            path.append(latents.half().cpu())
        at = torch.full((len(items),), timestep, device=teacher.device)
        prediction = teacher.predict(latents, at, embeds)
        latents = teacher.schedule.stepped(prediction, latents, at, torch.full_like(at, following))
    stored = (
        torch.stack(path, dim=1)
        if path
        else torch.empty(len(items), 0, *teacher.latent_shape, dtype=torch.float16)
    )
    accepted, margins = _judged(latents, rows, teacher, catalogue, detector)
    return {
        "prompts": rows,
        "seeds": seeds,
        "latents": latents.half().cpu(),
        "path": stored,
        "accepted": accepted.to(torch.uint8),
        "margins": margins,
    }


def _judged(
    latents: Tensor, rows: Tensor, teacher: Teacher, catalogue: Catalogue, detector: Detector | None
) -> tuple[Tensor, Tensor]:
    """Whether the pictures show what their variants state, bool [B], and by what margin, fp32 [B]."""
    if detector is None or catalogue.stated is None or catalogue.wanted is None:
        return torch.ones(len(rows), dtype=torch.bool), torch.ones(len(rows))
    images = as_uint8(teacher.decode(latents)).cpu()
    config = detector.config
    probabilities = detector.probabilities(perception.fitted(images, config.image_size))
    margins = attributes.margins(
        probabilities,
        wanted=catalogue.wanted[rows],
        stated=catalogue.stated[rows],
        groups=config.groups,
        thresholds=detector.thresholds,
    )
    accepted = as_stated(
        probabilities, rows, catalogue, groups=config.groups, thresholds=detector.thresholds
    )
    return accepted, margins.amin(1)


def as_stated(
    probabilities: Tensor,
    rows: Tensor,
    catalogue: Catalogue,
    *,
    groups: tuple[int, ...],
    thresholds: Tensor,
) -> Tensor:
    """bool [B]: by the rule of the evaluation. probabilities [B, bits]; rows: of the catalogue; thresholds [bits]."""
    if catalogue.stated is None or catalogue.wanted is None:
        raise ValueError("The catalogue states no bits.")
    return attributes.groups_right(
        probabilities,
        wanted=catalogue.wanted[rows],
        stated=catalogue.stated[rows],
        groups=groups,
        thresholds=thresholds,
    ).all(1)


def _summarise(folder: Path, shards: dict[str, list[Item]], recipe: PairsRecipe) -> None:
    names = {split: [name for name in shards if name.startswith(f"{split}-")] for split in SPLITS}
    counts = {}
    for split, files in names.items():
        accepted = []
        for name in files:
            with safe_open(folder / name, "pt") as file:
                accepted.append(file.get_tensor("accepted"))
        joined = torch.cat(accepted)
        counts[split] = {"pairs": len(joined), "accepted": int(joined.sum())}
    summary = {"path_timesteps": list(recipe.path_timesteps), "shards": names, "counts": counts}
    replacing.write_file(folder / SUMMARY, json.dumps(summary, indent=1) + "\n")
