"""Scores of the pictures of two releases by the judges, prompt by prompt."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from distillation.detector.network import Detector, resized
from distillation.evaluation import attributes, pictures
from distillation.evaluation.clip import Clip
from distillation.evaluation.pictures import Album
from distillation.evaluation.prompts import Prompts
from distillation.image_metrics import perceptual_distance, sharpness, texture
from distillation.image_metrics.distances import psnr, ssim
from distillation.image_metrics.perceptual_distance import Maps
from distillation.resumable.progress import Bar

CLIP_SCORE = 100  # × the cosine of picture and text
EQUAL_DB = 100.0  # of two equal pictures, whose PSNR is infinite


@dataclass(frozen=True)
class Judges:
    """A detector for attributes, a CLIP for similarity to texts and to other pictures, or both."""

    detector: Detector | None = None
    clip: Clip | None = None

    def __post_init__(self) -> None:
        if self.detector is None and self.clip is None:
            raise ValueError("Give a detector, a CLIP or both to judge the pictures.")

    @property
    def maps(self) -> Maps:
        """Return the feature maps to compare pictures by: the detector's if it exists: they keep positions."""
        if self.detector is not None:
            return perceptual_distance.of_detector(self.detector)
        if self.clip is not None:
            return self.clip.maps
        raise ValueError("There is no judge to compare pictures.")

    @property
    def maps_of(self) -> str:
        return "the detector" if self.detector is not None else "the CLIP"


@dataclass(frozen=True)
class ReleaseScores:
    """Scores of the pictures of one release; None without a judge.

    gradient, laplacian: of `sharpness`, [P, S]; textures: of `texture`, [P, S, d], None for tiny pictures;
    groups_right: bool [P, S, groups]; clip_score: [P, S]; features: of the CLIP, of length 1, [P, S, d]; spread: the
    mean distance between the pictures of each prompt, [P], NaN for a single picture.
    """

    spread: Tensor
    gradient: Tensor
    laplacian: Tensor
    textures: Tensor | None = None
    groups_right: Tensor | None = None
    clip_score: Tensor | None = None
    features: Tensor | None = None


@dataclass(frozen=True)
class Scores:
    """Scores of both releases; distance, psnr (dB) and ssim between their pictures of the same noise, [P, S].

    is_stated: whether the prompt states anything about the group, bool [P, groups]; None without a detector.
    """

    student: ReleaseScores
    teacher: ReleaseScores
    distance: Tensor
    psnr: Tensor
    ssim: Tensor
    is_stated: Tensor | None

    @property
    def right(self) -> tuple[Tensor, Tensor] | None:
        """Whether all groups are right, 0 or 1, of student and teacher, [P, S]; NaN where nothing is stated."""
        groups = self.student.groups_right, self.teacher.groups_right
        if self.is_stated is None or groups[0] is None or groups[1] is None:
            return None
        found = [values.all(2).double() for values in groups if values is not None]
        for values in found:
            values[~self.is_stated.any(1)] = float("nan")
        return found[0], found[1]

    @property
    def spread(self) -> tuple[Tensor, Tensor]:
        return self.student.spread, self.teacher.spread

    @property
    def gradient(self) -> tuple[Tensor, Tensor]:
        return self.student.gradient, self.teacher.gradient

    @property
    def clip_score(self) -> tuple[Tensor, Tensor] | None:
        if self.student.clip_score is None or self.teacher.clip_score is None:
            return None
        return self.student.clip_score, self.teacher.clip_score


def judge(
    student: Album, teacher: Album, prompts: Prompts, judges: Judges, *, progress_bar: bool = True
) -> Scores:
    """Score two albums of these prompts. Raises ValueError if the bits of the prompts are not the detector's."""
    size = student.manifest.image_sizes[0]
    if size != teacher.manifest.image_sizes[0]:
        raise ValueError(
            f"Pictures of {size} cannot be compared with the teacher's {teacher.manifest.image_sizes[0]}."
        )
    is_stated = _stated(prompts, judges.detector)
    of_texts = None if judges.clip is None else judges.clip.text_features(prompts.texts)
    maps = judges.maps
    rows: list[_Row] = []
    bar = Bar(len(prompts), title="judging", unit="prompt", is_shown=progress_bar)
    for number in bar.over(range(len(prompts))):
        both = student.read(number), teacher.read(number)
        images = torch.cat(both)
        vectors = perceptual_distance.vectors(maps(images)).chunk(2)
        groups = features = scores = None
        if (
            judges.detector is not None
            and prompts.wanted is not None
            and prompts.stated is not None
        ):
            groups = _groups_right(
                judges.detector, images, prompts.wanted[number], prompts.stated[number]
            )
        if judges.clip is not None and of_texts is not None:
            features = judges.clip.image_features(images)
            scores = CLIP_SCORE * features @ of_texts[number]
        is_large = min(images.shape[2:]) >= texture.MIN_SIDE
        rows.append(
            _Row(
                gradient=sharpness.gradient(images),
                laplacian=sharpness.laplacian_variance(images),
                textures=texture.features(images) if is_large else None,
                spreads=tuple(_spread(part) for part in vectors),
                groups=groups,
                features=features,
                scores=scores,
                distance=perceptual_distance.between(*vectors),
                psnr=psnr(*both).clamp(max=EQUAL_DB),
                ssim=ssim(*both),
            )
        )
    return Scores(
        _of_release(rows, 0),
        _of_release(rows, 1),
        torch.stack([row.distance for row in rows]),
        torch.stack([row.psnr for row in rows]),
        torch.stack([row.ssim for row in rows]),
        is_stated,
    )


def features_of(clip: Clip, folder: Path, *, progress_bar: bool = True) -> Tensor:
    """Return the features of the images of a folder, of length 1, fp32 [N, d]."""
    files = pictures.image_files(folder)
    parts = []
    bar = Bar(len(files), title="real pictures", unit="picture", is_shown=progress_bar)
    for path in bar.over(files):
        parts.append(clip.image_features(pictures.read(path)[None]))  # they may differ in size
    return torch.cat(parts)


# --- one prompt -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Row:
    """Scores of the 2S pictures of one prompt, the student's first."""

    gradient: Tensor
    laplacian: Tensor
    textures: Tensor | None
    spreads: tuple[float, ...]
    groups: Tensor | None
    features: Tensor | None
    scores: Tensor | None
    distance: Tensor
    psnr: Tensor
    ssim: Tensor


def _stated(prompts: Prompts, detector: Detector | None) -> Tensor | None:
    if detector is None or prompts.stated is None:
        return None
    bits = len(detector.config.bits)
    if prompts.stated.shape[1] != bits:
        raise ValueError(f"stated: {prompts.stated.shape[1]} bits; the detector has {bits}.")
    return attributes.groups_stated(prompts.stated, detector.config.groups)


def _groups_right(detector: Detector, images: Tensor, wanted: Tensor, stated: Tensor) -> Tensor:
    return attributes.groups_right(
        detector.probabilities(resized(images, detector.config.image_size)),
        wanted=wanted,
        stated=stated,
        groups=detector.config.groups,
        thresholds=detector.thresholds,
    )


def _spread(vectors: Tensor) -> float:
    return perceptual_distance.spread(vectors) if len(vectors) > 1 else float("nan")


def _of_release(rows: list[_Row], half: int) -> ReleaseScores:
    """Return the scores of one release. half: 0 = the student, 1 = the teacher."""

    def half_of(values: list[Tensor]) -> Tensor:
        return torch.stack([value.chunk(2)[half] for value in values])

    def stacked(part: Callable[[_Row], Tensor | None]) -> Tensor | None:
        found = [value for row in rows if (value := part(row)) is not None]
        return half_of(found) if found else None

    return ReleaseScores(
        spread=torch.tensor([row.spreads[half] for row in rows], dtype=torch.float64),
        gradient=half_of([row.gradient for row in rows]),
        laplacian=half_of([row.laplacian for row in rows]),
        textures=stacked(lambda row: row.textures),
        groups_right=stacked(lambda row: row.groups),
        clip_score=stacked(lambda row: row.scores),
        features=stacked(lambda row: row.features),
    )
