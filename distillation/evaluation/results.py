"""The results of an evaluation, as numbers and as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from math import isfinite
from typing import Any

from distillation.evaluation.latency import Speed
from distillation.evaluation.noninferiority import Margins, Verdict
from distillation.evaluation.real_pictures import ToReal
from distillation.image_metrics.distances import Distance, Interval

FORMAT_VERSION = 1
DIGITS = 6  # significant digits of a number in JSON
ALL = "all attributes"  # a key of `Evaluation.right`


@dataclass(frozen=True)
class Side:
    """A release and its costs. bytes_on_disk: by component."""

    name: str
    kind: str
    steps: int
    guidance_scale: float
    weights: str  # how they are stored
    bytes_on_disk: dict[str, int]
    speed: Speed | None

    @property
    def size_bytes(self) -> int:
        return sum(self.bytes_on_disk.values())


@dataclass(frozen=True)
class Both:
    """The mean over prompts of one measure, with its 95 % interval."""

    student: Interval
    teacher: Interval

    @property
    def change(self) -> float:
        return self.student.value - self.teacher.value


@dataclass(frozen=True)
class Pair:
    """A value of each release for one prompt."""

    student: float
    teacher: float

    @property
    def change(self) -> float:
        return self.student - self.teacher


@dataclass(frozen=True)
class PromptResult:
    """Means over the seeds of one prompt variant.

    right: share of its pictures; distance, psnr, ssim: between the pictures of the same noise; spread: between the
    pictures of one release; sharpness: mean gradient. seeds: of these pictures.
    """

    slug: str
    text: str
    seeds: tuple[int, ...]
    right: Pair | None
    clip_score: Pair | None
    spread: Pair | None
    sharpness: Pair | None
    distance: float
    psnr: float
    ssim: float


@dataclass(frozen=True)
class Core:
    """Measures on the seeds that all evaluations share, for comparing releases over time. They decide nothing."""

    seeds_each: int
    right: Both | None
    clip_score: Both | None
    spread: Both | None
    sharpness: Both


@dataclass(frozen=True)
class Evaluation:
    """right: share of pictures that are right, by group of attributes, ALL first; distances: by their sets.

    sharpness, laplacian: mean gradient in levels per pixel, and variance of the Laplacian in squared levels
    (`image_metrics.sharpness`). texture: between the sets of both (`image_metrics.texture`), None for tiny pictures.
    fresh_from: the name that the seeds were derived from, "" for those that all evaluations share; core: measures on
    the latter beside fresh ones. to_real: of "student" and "teacher", if there were real pictures. blind_to: what each
    judge cannot see. maps_of: the network whose feature maps `distance` and `spread` compare.
    """

    student: Side
    teacher: Side
    outcome: str
    verdicts: tuple[Verdict, ...]
    margins: Margins
    prompts: int
    seeds_each: int
    fresh_from: str
    core: Core | None
    right: dict[str, Both]
    clip_score: Both | None
    spread: Both | None
    sharpness: Both
    laplacian: Both
    to_real: dict[str, ToReal]
    distance: Interval
    psnr: Interval
    ssim: Interval
    distances: dict[str, Distance]
    texture: Interval | None
    maps_of: str
    per_prompt: tuple[PromptResult, ...]
    judges: dict[str, str]
    blind_to: dict[str, str]
    machine: dict[str, Any]
    seconds: dict[str, float]  # by part of the evaluation

    @property
    def losers(self) -> list[PromptResult]:
        """Return the prompts that the student makes worse, greatest loss first: by right pictures, then CLIP score."""

        def losses(prompt: PromptResult) -> tuple[float, float]:
            return (
                prompt.right.change if prompt.right else 0.0,
                prompt.clip_score.change if prompt.clip_score else 0.0,
            )

        return sorted((p for p in self.per_prompt if losses(p) < (0.0, 0.0)), key=losses)

    @property
    def spread_ratio(self) -> float | None:
        if self.spread is None or not self.spread.teacher.value:
            return None
        return self.spread.student.value / self.spread.teacher.value


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return every number as plain JSON values."""
    return {"format_version": FORMAT_VERSION, **plain(evaluation)}


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """Return the main figures, for the manifest of the release."""
    return plain(
        {
            "format_version": FORMAT_VERSION,
            "teacher": evaluation.teacher.name,
            "outcome": evaluation.outcome,
            "prompts": evaluation.prompts,
            "seeds_each": evaluation.seeds_each,
            "fresh_from": evaluation.fresh_from,
            "core": evaluation.core,
            "verdicts": evaluation.verdicts,
            "right": evaluation.right.get(ALL),
            "clip_score": evaluation.clip_score,
            "spread": evaluation.spread,
            "sharpness": evaluation.sharpness,
            "distance": evaluation.distance,
            "seconds_per_picture": {
                name: side.speed.seconds["total"].median
                for name, side in (("student", evaluation.student), ("teacher", evaluation.teacher))
                if side.speed
            },
        }
    )


def plain(value: Any) -> Any:
    """Return dataclasses, mappings and tuples as JSON values; infinity and "not a number" become null."""
    if isinstance(value, Interval):
        return {name: plain(part) for name, part in value._asdict().items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if isfinite(value) else None
    return value
