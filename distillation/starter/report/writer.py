"""Measures the committed teacher with the committed judges and writes docs/starter.md, its plots and its sheets.

Knows the order of the measurements; the measures, the plots, the sheets and the text have modules of their own.
Pictures are kept under the data folder, so an interrupted report goes on with the same command.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from distillation.detector import network as detectors
from distillation.detector.network import Detector
from distillation.evaluation.distances import Distance, distance
from distillation.resumable import atomic, stages
from distillation.starter import clip as clips
from distillation.starter import photographs as albums
from distillation.starter import rendering
from distillation.starter.captions import captions
from distillation.starter.photographs import Photographs
from distillation.starter.report import document, gallery, measuring, plots
from distillation.starter.report.document import Figures
from distillation.starter.report.measuring import BitVerdict, SweepPoint
from distillation.starter.report.pictures import Studio
from distillation.starter.report.records import History
from distillation.starter.words import TRAINED, Combination

SPLITS = ("validation", "test", "test-held-out")
# Seeds of the pictures of each part never meet, so that guidance is not chosen on the pictures that are judged.
SWEEP, OF_TRAINED, OF_HELD_OUT = 1_000_000, 2_000_000, 3_000_000


@dataclass(frozen=True)
class Recipe:
    """How much is measured. pictures: of trained combinations, and as many again of held-out ones."""

    steps: int = 50
    guidance_scales: tuple[float, ...] = (1, 1.5, 2, 3, 4)
    sweep: int = 40  # pictures per guidance scale
    pictures: int = 512
    sheet: int = 8  # prompts, and seeds of each

    def __post_init__(self) -> None:
        if min(self.steps, self.sweep, self.pictures, self.sheet) < 2 or not self.guidance_scales:
            raise ValueError(f"A report measures at least two pictures of everything, not {self}.")


FULL = Recipe()
QUICK = Recipe(steps=4, guidance_scales=(1, 2), sweep=4, pictures=8, sheet=2)


@dataclass(frozen=True)
class Judges:
    """The detector, and our CLIP by what it is asked: words of images, and features of length 1 (n, d) of images."""

    detector: Detector
    zero_shot: Callable[[Tensor], Mapping[str, Tensor]]
    features: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Splits:
    """The photographs that no network was fitted to; by those of `validation` thresholds were chosen."""

    validation: Photographs
    test: Photographs
    held_out: Photographs


def write(
    root: Path,
    pack: Path,
    judges: Path,
    *,
    docs: Path,
    quick: bool = False,
    progress_bar: bool = True,
) -> Path:
    """Measure, and write `starter.md` with its pictures in `starter/` into `docs`; returns the document.

    root: the data folder of the stages; photographs that it lacks are rendered. pack: the release of the teacher;
    judges: the folder that holds `detector` and `clip`, beside the `history` of the trainings.
    """
    folder = _photographed(root, quick=quick, progress_bar=progress_bar)
    recipe = QUICK if quick else FULL
    return write_of(
        Studio(pack, root / "pictures", steps=recipe.steps, progress_bar=progress_bar),
        load_judges(judges, pack / "tokenizer"),
        Splits(*(albums.read(folder, split) for split in SPLITS)),
        History.read(judges.parent / "history"),
        recipe=recipe,
        docs=docs,
    )


def write_of(
    studio: Studio, judges: Judges, splits: Splits, history: History, *, recipe: Recipe, docs: Path
) -> Path:
    """As `write`, of what is loaded already."""
    pictures = docs / "starter"
    pictures.mkdir(parents=True, exist_ok=True)

    # What the judges and the VAE are worth, on photographs.
    of = {"test": splits.test, "held-out": splits.held_out}
    rebuilt = {
        name: measuring.reconstruct(
            studio.vae, of[name].images, title=f"VAE, {name}", progress_bar=studio.progress_bar
        )
        for name in of
    }
    detector = {name: _by_detector(judges, of[name].images, of[name]) for name in of}
    detector |= {f"{name}, rebuilt": _by_detector(judges, rebuilt[name], of[name]) for name in of}
    clip = {name: _by_clip(judges, of[name].images, of[name]) for name in of}
    psnr = {name: measuring.mean_psnr(of[name].images, rebuilt[name]) for name in of}

    # The floor, and the guidance.
    test = judges.features(splits.test.images)
    floor = distance(judges.features(splits.validation.images), test)
    points = sweep(studio, judges, test, recipe=recipe)
    best = choose(points)
    plots.sweep(pictures / "sweep.png", points, best=best, floor=floor.kid)

    # The teacher, of the combinations of photographs, so that both sets hold the same mixture of them.
    asked = {
        "trained": _cycled(splits.validation.combinations, recipe.pictures),
        "held-out": _cycled(splits.held_out.combinations, recipe.pictures),
    }
    made = {
        "trained": _make(studio, asked["trained"], OF_TRAINED, best, "teacher, trained"),
        "held-out": _make(studio, asked["held-out"], OF_HELD_OUT, best, "teacher, held-out"),
    }
    teacher = {
        name: measuring.by_detector(judges.detector, made[name], asked[name]) for name in made
    }
    clip |= {
        f"pictures, {name}": measuring.by_zero_shot(judges.zero_shot, made[name], asked[name])
        for name in made
    }
    distances = {
        "test photographs, and pictures of the teacher": _distance(judges, made["trained"], test)
    }
    distances["test photographs, and validation photographs (the floor)"] = floor
    distances |= _held_out_distances(judges, splits.held_out, made["held-out"])

    # What a person looks at.
    gallery.contact_sheet(
        pictures / "sheet.webp", studio, judges.detector, size=recipe.sheet, guidance_scale=best
    )
    gallery.side_by_side(pictures / "side-by-side.webp", studio, of, rebuilt, guidance_scale=best)
    gallery.mistakes(pictures / "mistakes.webp", made, teacher)
    plots.confusions(pictures / "confusions.png", measuring.joined(list(teacher.values())))
    for stage, curve in history.curves.items():
        plots.losses(pictures / f"losses-{stage}.png", curve, title=stage)

    figures = Figures(
        release=studio.manifest.name,
        device=studio.served.describe(),
        steps=recipe.steps,
        served_guidance=studio.manifest.guidance_scale,
        best_guidance=best,
        sweep=tuple(points),
        sweep_pictures=recipe.sweep,
        detector=detector,
        clip=clip,
        psnr=psnr,
        teacher=teacher,
        distances=distances,
    )
    atomic.write_file(
        pictures / "figures.json", json.dumps(document.summary(figures), indent=2) + "\n"
    )
    atomic.write_file(docs / "starter.md", document.text(figures, history))
    return docs / "starter.md"


def load_judges(folder: Path, tokenizer_folder: Path) -> Judges:
    """folder: holds `detector` and `clip`; tokenizer_folder: what the CLIP was trained with, as in the release."""
    clip = clips.load(folder / "clip")
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
    return Judges(
        detectors.load(folder / "detector"),
        zero_shot=lambda images: clips.zero_shot(clip, tokenizer, images),
        features=lambda images: clips.image_features(clip, images),
    )


# --- steps ----------------------------------------------------------------------------------------
def sweep(
    studio: Studio, judges: Judges, photographs: Tensor, *, recipe: Recipe
) -> list[SweepPoint]:
    """The same prompts and seeds at each guidance scale. photographs: features of the test photographs."""
    order = torch.randperm(len(TRAINED), generator=torch.Generator().manual_seed(SWEEP)).tolist()
    combinations = _cycled([TRAINED[number] for number in order], recipe.sweep)
    points = []
    for scale in recipe.guidance_scales:
        made = _make(studio, combinations, SWEEP, scale, f"sweep, guidance {scale:g}")
        verdict = measuring.by_detector(judges.detector, made, combinations)
        kid = _distance(judges, made, photographs).kid
        points.append(SweepPoint(scale, verdict.all_four, verdict.strict, kid))
    return points


def choose(points: Sequence[SweepPoint]) -> float:
    """The guidance scale with the most pictures right in all four attributes; of equals the nearest to photographs."""
    best = max(points, key=lambda point: (point.all_four.value, -point.kid.value))
    return best.guidance_scale


def _held_out_distances(
    judges: Judges, photographs: Photographs, pictures: Tensor
) -> dict[str, Distance]:
    """One half of the photographs is compared with: the other half, and pictures of the combinations of that."""
    features = judges.features(photographs.images)
    half = len(features) // 2
    return {
        "held-out photographs, and pictures of the teacher": _distance(
            judges, pictures[:half], features[half:]
        ),
        "held-out photographs, two halves (the floor)": distance(features[:half], features[half:]),
    }


def _make(
    studio: Studio,
    combinations: Sequence[Combination],
    seed: int,
    guidance_scale: float,
    title: str,
) -> Tensor:
    """One picture of each, by its first caption. seed: of the first; the following count on."""
    texts = [captions(combination)[0] for combination in combinations]
    seeds = list(range(seed, seed + len(texts)))
    return studio.make(texts, seeds, guidance_scale=guidance_scale, title=title)


def _distance(judges: Judges, pictures: Tensor, photographs: Tensor) -> Distance:
    return distance(judges.features(pictures), photographs)


def _by_detector(judges: Judges, images: Tensor, photographs: Photographs) -> BitVerdict:
    return measuring.by_detector(judges.detector, images, photographs.combinations)


def _by_clip(judges: Judges, images: Tensor, photographs: Photographs) -> measuring.Verdict:
    return measuring.by_zero_shot(judges.zero_shot, images, photographs.combinations)


def _cycled(combinations: Sequence[Combination], count: int) -> list[Combination]:
    return [combinations[number % len(combinations)] for number in range(count)]


# --- files ----------------------------------------------------------------------------------------
def _photographed(root: Path, *, quick: bool, progress_bar: bool) -> Path:
    """The folder of the stage "scenes", with at least the three splits that are measured."""
    from distillation.starter import recipe as recipes  # which imports this module

    table = recipes.QUICK if quick else recipes.STAGES
    [scenes] = [stage for stage in table if stage.name == "scenes"]
    folder = stages.folder_of(table, root, scenes.name)
    rendering.build(folder, scenes.recipe, splits=SPLITS, progress_bar=progress_bar)
    return folder
