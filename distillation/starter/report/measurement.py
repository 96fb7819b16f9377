"""The measurements of the starter: its judges and its VAE on photographs, guidance scales, and the teacher."""

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

# By name, uint8 [N, 3, height, width] and what they show.
Pictures = dict[str, tuple[Tensor, Sequence[Combination]]]

# The seeds of the parts are disjoint, so that guidance is not chosen on the pictures that are judged.
STUDENT = "pictures, student"
SWEEP, OF_TRAINED, OF_HELD_OUT = 1_000_000, 2_000_000, 3_000_000


@dataclass(frozen=True)
class Recipe:
    """How much is measured. pictures: of trained combinations, and as many again of held-out ones."""

    steps: int = 50
    guidance_scales: tuple[float, ...] = (1, 1.5, 2, 3)
    sweep: int = 512  # pictures per guidance scale: fewer do not tell scales apart
    pictures: int = 512
    sheet: int = 8  # prompts, and seeds of each


@dataclass(frozen=True)
class Judges:
    """The detector, the examiner, the segmentation, and our CLIP as two functions of images: the words it sees, and
    features of length 1 (n, d).
    """

    detector: Detector
    examiner: ConvNextV2ForImageClassification
    segmentation: UNet
    zero_shot: Callable[[Tensor], Mapping[str, Tensor]]
    features: Callable[[Tensor], Tensor]

    @staticmethod
    def load(folder: Path, tokenizer_folder: Path, segmentation_folder: Path) -> "Judges":
        """folder: of `detector`, `clip` and `examiner`; tokenizer_folder: the CLIP's, as in the release."""
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
    """The photographs that no network was fitted to; thresholds were chosen by those of `validation`."""

    validation: Photographs
    test: Photographs
    held_out: Photographs

    @property
    def tests(self) -> dict[str, Photographs]:
        return {"test": self.test, "held-out": self.held_out}


@dataclass(frozen=True)
class Measured:
    """figures: every number of the report; rebuilt: photographs through the VAE, by split; made, teacher: pictures and
    their verdicts, of trained and of held-out combinations; floor: the distance between two sets of photographs."""

    figures: dict[str, Any]
    rebuilt: dict[str, Tensor]
    made: dict[str, Tensor]
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
    """Measure everything. Pictures that are missing are made. student: pictures of one, and what they were to show."""
    rebuilt = {
        name: metrics.reconstruct(
            sampler.vae, split.images, title=f"VAE, {name}", progress_bar=sampler.progress_bar
        )
        for name, split in splits.tests.items()
    }
    test = judges.features(splits.test.images)
    floor = distance(judges.features(splits.validation.images), test)
    points = sweep(sampler, judges, test, recipe=recipe)
    best = choose(points)
    # Of the combinations of photographs, so that both sets contain the same mixture of them.
    asked = {
        "trained": _cycled(splits.validation.combinations, recipe.pictures),
        "held-out": _cycled(splits.held_out.combinations, recipe.pictures),
    }
    made = {
        name: _make(sampler, asked[name], seed, best, f"teacher, {name}")
        for name, seed in (("trained", OF_TRAINED), ("held-out", OF_HELD_OUT))
    }
    teacher = {name: judges.by_detector(made[name], asked[name]) for name in made}
    both = metrics.joined(list(teacher.values()))
    photographs: Pictures = {
        name: (split.images, split.combinations) for name, split in splits.tests.items()
    }
    through_vae: Pictures = {
        f"{name}, rebuilt": (rebuilt[name], split.combinations)
        for name, split in splits.tests.items()
    }
    pictures: Pictures = {f"pictures, {name}": (made[name], asked[name]) for name in made}
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
            name: judges.by_detector(*of).figures()
            for name, of in (photographs | through_vae).items()
        },
        "examiner": {
            name: judges.by_examiner(*of).figures()
            for name, of in (photographs | through_vae | pictures).items()
        },
        "clip": {
            name: judges.by_clip(*of).figures() for name, of in (photographs | pictures).items()
        },
        "psnr": {
            name: metrics.mean_psnr(split.images, rebuilt[name])
            for name, split in splits.tests.items()
        },
        "sharpness": sharpness(splits, rebuilt, made, asked)
        | ({STUDENT: metrics.sharpness_of(student[0], splits.test.images)} if student else {}),
        "shapes": shapes(judges.segmentation, splits, through_vae | pictures),
        "teacher": {name: verdict.figures() for name, verdict in teacher.items()},
        "confusions": [c for name in ATTRIBUTES for c in metrics.worst_confusions(both, name)],
        "distances": {
            "test photographs, and pictures of the teacher": distance(
                judges.features(made["trained"]), test
            ),
            "test photographs, and validation photographs (the floor)": floor,
            **_held_out_distances(judges, splits.held_out, made["held-out"]),
        },
    }
    return Measured(
        figures | {"targets": targets(figures)}, rebuilt, made, teacher, points, best, floor
    )


def sharpness(
    splits: Splits,
    rebuilt: Mapping[str, Tensor],
    made: Mapping[str, Tensor],
    asked: Mapping[str, Sequence[Combination]],
) -> dict[str, metrics.Sharpness]:
    """Return the sharpness of reconstructions and of pictures, as shares of that of photographs.

    The teacher's pictures are compared with photographs of the same combinations.
    """
    found = {
        f"{name}, rebuilt": metrics.sharpness_of(rebuilt[name], split.images)
        for name, split in splits.tests.items()
    }
    of = {"trained": splits.validation, "held-out": splits.held_out}
    for name, split in of.items():
        rows = [number % len(split) for number in range(len(asked[name]))]
        found[f"pictures, {name}"] = metrics.sharpness_of(made[name], split.images[rows])
    return found


def shapes(network: UNet, splits: Splits, pictures: Pictures) -> dict[str, float]:
    """Return the nearness of shapes to those of test photographs; of "photographs": of those of `validation`."""
    known = Shapes.of(network, splits.test)
    of = {"photographs": (splits.validation.images, splits.validation.combinations), **pictures}
    return {
        name: known.nearness(*images)
        for name, images in of.items()
        if name != "test, rebuilt"  # the photographs that they are compared with
    }


def sweep(
    sampler: TeacherSampler, judges: Judges, photographs: Tensor, *, recipe: Recipe
) -> list[SweepPoint]:
    """Return the metrics of equal prompts and seeds at each guidance scale. photographs: features of the test ones."""
    order = torch.randperm(len(TRAINED), generator=torch.Generator().manual_seed(SWEEP)).tolist()
    combinations = _cycled([TRAINED[number] for number in order], recipe.sweep)
    points = []
    for scale in recipe.guidance_scales:
        made = _make(sampler, combinations, SWEEP, scale, f"sweep, guidance {scale:g}")
        verdict = judges.by_detector(made, combinations)
        kid = distance(judges.features(made), photographs).kid
        points.append(SweepPoint(scale, verdict.all_four, verdict.strict, kid))
    return points


def choose(points: Sequence[SweepPoint]) -> float:
    """Return the scale with the most pictures right in all four attributes; of equals the nearest to photographs."""
    best = max(points, key=lambda point: (point.all_four.value, -point.kid_1000.value))
    return best.guidance_scale


def targets(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the targets of the starter with what was measured. least and value have the same unit."""
    test, rebuilt = figures["detector"]["test"], figures["detector"]["test, rebuilt"]
    accuracies = test["balanced_accuracy"].items()
    lowest, word = min((value, word) for word, value in accuracies if value is not None)
    change = rebuilt["bits_right"] - test["bits_right"]
    trained, held_out = (
        figures["examiner"][f"pictures, {name}"]["all_four"] for name in ("trained", "held-out")
    )
    photographed, pictured = (
        figures["sharpness"][name] for name in ("test, rebuilt", "pictures, trained")
    )
    rows: tuple[tuple[str, float, float, str], ...] = (
        ("detector: bits right on test photographs", 97, 100 * test["bits_right"], "%"),
        (f"detector: balanced accuracy of its worst bit ({word})", 93, 100 * lowest, "%"),
        ("VAE: PSNR on test photographs", 36, figures["psnr"]["test"].value, "dB"),
        ("VAE: change of the detector's bits right by reconstruction", -2, 100 * change, "points"),
        *(
            (f"{name}: {what}, of the photographs'", least, 100 * value, "%")
            for name, found in (("VAE", photographed), ("teacher", pictured))
            for what, least, value in (
                ("mean gradient", 95, found.gradient),
                ("variance of the Laplacian", 70, found.laplacian),
            )
        ),
        (
            "teacher: shapes, of the photographs'",
            90,
            100 * figures["shapes"]["pictures, trained"] / figures["shapes"]["photographs"],
            "%",
        ),
        (
            "teacher: all four attributes right by the examiner, trained combinations",
            93,
            100 * trained.value,
            "%",
        ),
        (
            "teacher: all four attributes right by the examiner, held-out combinations",
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
    sharp, by_teacher = (figures["sharpness"][name] for name in (STUDENT, "pictures, trained"))
    shape = figures["shapes"][STUDENT] / figures["shapes"]["photographs"]
    return (
        ("student: mean gradient, of the photographs'", 95, 100 * sharp.gradient, "%"),
        ("student: variance of the Laplacian, of the photographs'", 70, 100 * sharp.laplacian, "%"),
        (
            "student: mean gradient, of the teacher's",
            95,
            100 * sharp.gradient / by_teacher.gradient,
            "%",
        ),
        ("student: shapes, of the photographs'", 90, 100 * shape, "%"),
    )


def _held_out_distances(
    judges: Judges, photographs: Photographs, pictures: Tensor
) -> dict[str, Distance]:
    """Compare the second half of the photographs with the first, and with pictures of the combinations of the first."""
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
    """Return one picture of each by its first caption. seed: of the first picture; the others count on."""
    texts = [captions(combination)[0] for combination in combinations]
    seeds = list(range(seed, seed + len(texts)))
    return sampler.make(texts, seeds, guidance_scale=guidance_scale, title=title)


def _cycled(combinations: Sequence[Combination], count: int) -> list[Combination]:
    return [combinations[number % len(combinations)] for number in range(count)]
