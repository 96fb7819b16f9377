"""Measurements of the starter: the judges and the VAE on photographs, the guidance scale, the teacher, a student."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import ConvNextV2ForImageClassification

from distillation.detector import network as detectors
from distillation.detector import segmentation
from distillation.detector.network import Detector
from distillation.detector.segmentation import UNet
from distillation.evaluation import clip as evaluation_clip
from distillation.image_metrics.distances import Distance, distance
from distillation.starter import examiner as examiners
from distillation.starter.captions import captions
from distillation.starter.clip import zero_shot
from distillation.starter.photographs import Photographs
from distillation.starter.report import metrics
from distillation.starter.report.metrics import BitVerdict, SweepPoint, Verdict
from distillation.starter.report.sampler import TeacherSampler
from distillation.starter.report.shape import Shapes
from distillation.starter.words import ATTRIBUTES, TRAINED, Combination

# By name: images, uint8 [N, 3, height, width], and their N combinations.
Pictures = dict[str, tuple[Tensor, Sequence[Combination]]]

STUDENT = "pictures, student"
# First seeds. The ranges are disjoint, so that guidance is not chosen on the pictures that are measured afterwards.
SWEEP, OF_TRAINED, OF_HELD_OUT = 1_000_000, 2_000_000, 3_000_000


@dataclass(frozen=True)
class Recipe:
    """Sizes of the measurements. pictures: number of trained combinations, and the same number of held-out ones."""

    steps: int = 50
    guidance_scales: tuple[float, ...] = (1, 1.5, 2, 3)
    sweep: int = 512  # pictures per guidance scale; fewer cannot distinguish scales
    pictures: int = 512
    sheet: int = 8  # prompts, and seeds per prompt


@dataclass(frozen=True)
class Judges:
    """The networks that judge pictures; arguments of the functions are uint8 [N, 3, height, width].

    zero_shot: returns the index of the word of each attribute, by our CLIP; features: returns its features of length 1,
    [N, d].
    """

    detector: Detector
    examiner: ConvNextV2ForImageClassification
    segmentation: UNet
    zero_shot: Callable[[Tensor], Mapping[str, Tensor]]
    features: Callable[[Tensor], Tensor]

    @staticmethod
    def load(folder: Path, tokenizer_folder: Path, segmentation_folder: Path) -> "Judges":
        """Load the judges. folder: of `detector`, `clip` and `examiner`; tokenizer_folder: that of the release."""
        clip = evaluation_clip.load(folder / "clip", tokenizer=tokenizer_folder)
        return Judges(
            detectors.load(folder / "detector"),
            examiners.load(folder / "examiner"),
            segmentation.load(segmentation_folder),
            zero_shot=lambda images: zero_shot(clip, images),
            features=clip.image_features,
        )

    def by_detector(self, images: Tensor, combinations: Sequence[Combination]) -> BitVerdict:
        return metrics.by_detector(self.detector, images, combinations)

    def by_examiner(
        self, images: Tensor, combinations: Sequence[Combination]
    ) -> metrics.PartsVerdict:
        return metrics.by_examiner(self.examiner, images, combinations)

    def by_clip(self, images: Tensor, combinations: Sequence[Combination]) -> Verdict:
        return metrics.by_zero_shot(self.zero_shot, images, combinations)


@dataclass(frozen=True)
class Splits:
    """Photographs used in no training. The detector's thresholds were chosen on `validation`."""

    validation: Photographs
    test: Photographs
    held_out: Photographs

    @property
    def tests(self) -> dict[str, Photographs]:
        return {"test": self.test, "held-out": self.held_out}


@dataclass(frozen=True)
class Measured:
    """figures: all numbers of the report; reconstructions: of photographs by the VAE, by split.

    pictures, teacher: the teacher's pictures and their verdicts, by "trained" and "held-out"; floor: the distance
    between two sets of photographs.
    """

    figures: dict[str, Any]
    reconstructions: dict[str, Tensor]
    pictures: dict[str, Tensor]
    teacher: dict[str, BitVerdict]
    sweep: list[SweepPoint]
    guidance: float
    floor: Distance


def measure(
    sampler: TeacherSampler,
    judges: Judges,
    splits: Splits,
    recipe: Recipe,
    student: tuple[Tensor, Sequence[Combination]] | None = None,
) -> Measured:
    """Make the missing pictures and return all measurements. student: its pictures, and their combinations."""
    reconstructions = {
        name: metrics.reconstruct(
            sampler.vae, split.images, title=f"VAE, {name}", progress_bar=sampler.progress_bar
        )
        for name, split in splits.tests.items()
    }
    test = judges.features(splits.test.images)
    floor = distance(judges.features(splits.validation.images), test)
    points = sweep(sampler, judges, test, recipe=recipe)
    best = choose(points)
    # The combinations of the photographs, so that distances compare sets with the same mixture.
    combinations = {
        "trained": _cycled(splits.validation.combinations, recipe.pictures),
        "held-out": _cycled(splits.held_out.combinations, recipe.pictures),
    }
    teacher_pictures = {
        name: _make(sampler, combinations[name], seed, best, f"teacher, {name}")
        for name, seed in (("trained", OF_TRAINED), ("held-out", OF_HELD_OUT))
    }
    teacher = {
        name: judges.by_detector(teacher_pictures[name], combinations[name])
        for name in teacher_pictures
    }
    combined = metrics.joined(list(teacher.values()))
    photographs: Pictures = {
        name: (split.images, split.combinations) for name, split in splits.tests.items()
    }
    reconstructed: Pictures = {
        f"{name}, rebuilt": (reconstructions[name], split.combinations)
        for name, split in splits.tests.items()
    }
    pictures: Pictures = {
        f"pictures, {name}": (teacher_pictures[name], combinations[name])
        for name in teacher_pictures
    }
    if student is not None:
        pictures[STUDENT] = student
    figures = {
        "release": sampler.manifest.name,
        "image_size": splits.test.images.shape[-1],
        "device": sampler.served.describe(),
        "steps": recipe.steps,
        "guidance_scale": best,
        "served_guidance": sampler.manifest.guidance_scale,
        "sweep": {"pictures": recipe.sweep, "points": points},
        "detector": {
            name: judges.by_detector(*entry).figures()
            for name, entry in (photographs | reconstructed).items()
        },
        "examiner": {
            name: judges.by_examiner(*entry).figures()
            for name, entry in (photographs | reconstructed | pictures).items()
        },
        "clip": {
            name: judges.by_clip(*entry).figures()
            for name, entry in (photographs | pictures).items()
        },
        "psnr": {
            name: metrics.mean_psnr(split.images, reconstructions[name])
            for name, split in splits.tests.items()
        },
        "sharpness": sharpness(splits, reconstructions, teacher_pictures)
        | ({STUDENT: metrics.sharpness_of(student[0], splits.test.images)} if student else {}),
        "shapes": shapes(judges.segmentation, splits, reconstructed | pictures),
        "teacher": {name: verdict.figures() for name, verdict in teacher.items()},
        "confusions": [c for name in ATTRIBUTES for c in metrics.worst_confusions(combined, name)],
        "distances": {
            "test photographs, and pictures of the teacher": distance(
                judges.features(teacher_pictures["trained"]), test
            ),
            "test photographs, and validation photographs (the floor)": floor,
            **_held_out_distances(judges, splits.held_out, teacher_pictures["held-out"]),
        },
    }
    return Measured(
        figures | {"targets": targets(figures)},
        reconstructions,
        teacher_pictures,
        teacher,
        points,
        best,
        floor,
    )


def sharpness(
    splits: Splits, reconstructions: Mapping[str, Tensor], pictures: Mapping[str, Tensor]
) -> dict[str, metrics.Sharpness]:
    """Return the sharpness of reconstructions and of the teacher's pictures, relative to photographs.

    The photographs have the combinations of the pictures.
    """
    found = {
        f"{name}, rebuilt": metrics.sharpness_of(reconstructions[name], split.images)
        for name, split in splits.tests.items()
    }
    for name, split in (("trained", splits.validation), ("held-out", splits.held_out)):
        rows = [number % len(split) for number in range(len(pictures[name]))]
        found[f"pictures, {name}"] = metrics.sharpness_of(pictures[name], split.images[rows])
    return found


def shapes(network: UNet, splits: Splits, pictures: Pictures) -> dict[str, float]:
    """Return the mean best IoU of masks with those of test photographs; "photographs": of the validation split."""
    reference = Shapes.of(network, splits.test)
    compared = {
        "photographs": (splits.validation.images, splits.validation.combinations),
        **pictures,
    }
    return {
        name: reference.mean_best_iou(*entry)
        for name, entry in compared.items()
        if name != "test, rebuilt"  # reconstructions of the reference
    }


def sweep(
    sampler: TeacherSampler, judges: Judges, photographs: Tensor, *, recipe: Recipe
) -> list[SweepPoint]:
    """Return the metrics at each guidance scale, with equal prompts and seeds. photographs: their features."""
    order = torch.randperm(len(TRAINED), generator=torch.Generator().manual_seed(SWEEP)).tolist()
    combinations = _cycled([TRAINED[number] for number in order], recipe.sweep)
    points = []
    for scale in recipe.guidance_scales:
        pictures = _make(sampler, combinations, SWEEP, scale, f"sweep, guidance {scale:g}")
        verdict = judges.by_detector(pictures, combinations)
        kid = distance(judges.features(pictures), photographs).kid
        points.append(SweepPoint(scale, verdict.all_four, verdict.strict, kid))
    return points


def choose(points: Sequence[SweepPoint]) -> float:
    """Return the scale with the most pictures right in all four attributes; of equal ones, that of the smallest KID."""
    best = max(points, key=lambda point: (point.all_four.value, -point.kid_1000.value))
    return best.guidance_scale


def targets(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the targets of the starter (`least`) with the measured values (`value`), in the same unit."""
    test, rebuilt = figures["detector"]["test"], figures["detector"]["test, rebuilt"]
    accuracies = test["balanced_accuracy"].items()
    lowest, word = min((value, word) for word, value in accuracies if value is not None)
    change = rebuilt["bits_right"] - test["bits_right"]
    trained, held_out = (
        figures["examiner"][f"pictures, {name}"]["all_four"] for name in ("trained", "held-out")
    )
    vae_sharpness, teacher_sharpness = (
        figures["sharpness"][name] for name in ("test, rebuilt", "pictures, trained")
    )
    rows: tuple[tuple[str, float, float, str], ...] = (
        ("detector: bits right on test photographs", 97, 100 * test["bits_right"], "%"),
        (f"detector: balanced accuracy of its worst bit ({word})", 93, 100 * lowest, "%"),
        ("VAE: PSNR on test photographs", 36, figures["psnr"]["test"].value, "dB"),
        ("VAE: change of the detector's bits right on reconstructions", -2, 100 * change, "points"),
        *(
            (f"{name}: {what}, relative to photographs", least, 100 * value, "%")
            for name, found in (("VAE", vae_sharpness), ("teacher", teacher_sharpness))
            for what, least, value in (
                ("mean gradient", 95, found.gradient),
                ("variance of the Laplacian", 70, found.laplacian),
            )
        ),
        (
            "teacher: IoU of shapes, relative to photographs",
            90,
            100 * figures["shapes"]["pictures, trained"] / figures["shapes"]["photographs"],
            "%",
        ),
        (
            "teacher: all four attributes right (examiner), trained combinations",
            93,
            100 * trained.value,
            "%",
        ),
        (
            "teacher: all four attributes right (examiner), held-out combinations",
            90,
            100 * held_out.value,
            "%",
        ),
    )
    if STUDENT in figures["sharpness"]:
        rows += _targets_of_student(figures)
    return [
        {"what": what, "least": least, "value": value, "unit": unit, "met": value >= least}
        for what, least, value, unit in rows
    ]


def _targets_of_student(figures: Mapping[str, Any]) -> tuple[tuple[str, float, float, str], ...]:
    student, teacher = (figures["sharpness"][name] for name in (STUDENT, "pictures, trained"))
    shape = figures["shapes"][STUDENT] / figures["shapes"]["photographs"]
    return (
        ("student: mean gradient, relative to photographs", 95, 100 * student.gradient, "%"),
        (
            "student: variance of the Laplacian, relative to photographs",
            70,
            100 * student.laplacian,
            "%",
        ),
        (
            "student: mean gradient, relative to the teacher",
            95,
            100 * student.gradient / teacher.gradient,
            "%",
        ),
        ("student: IoU of shapes, relative to photographs", 90, 100 * shape, "%"),
    )


def _held_out_distances(
    judges: Judges, photographs: Photographs, pictures: Tensor
) -> dict[str, Distance]:
    """Return distances to the second half of the photographs: of pictures like the first half, and of that half."""
    features = judges.features(photographs.images)
    half = len(features) // 2
    return {
        "held-out photographs, and pictures of the teacher": distance(
            judges.features(pictures[:half]), features[half:]
        ),
        "held-out photographs, two halves (the floor)": distance(features[:half], features[half:]),
    }


def _make(
    sampler: TeacherSampler,
    combinations: Sequence[Combination],
    seed: int,
    guidance_scale: float,
    title: str,
) -> Tensor:
    """Return one picture of each combination from its canonical caption, with consecutive seeds from `seed` on."""
    texts = [captions(combination)[0] for combination in combinations]
    seeds = list(range(seed, seed + len(texts)))
    return sampler.make(texts, seeds, guidance_scale=guidance_scale, title=title)


def _cycled(combinations: Sequence[Combination], count: int) -> list[Combination]:
    """Return `count` combinations, repeating the given ones."""
    return [combinations[number % len(combinations)] for number in range(count)]
