"""Metrics of pictures by the detector, by our CLIP and of the VAE, with intervals."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from distillation.detector.calibration import expected_calibration_error
from distillation.image_metrics import sharpness
from distillation.image_metrics.distances import Interval, psnr
from distillation.image_metrics.perceptual_distance import fitted
from distillation.resumable.progress import Bar
from distillation.starter import examiner
from distillation.starter.shapes import PARTS, parts_of
from distillation.starter.words import ATTRIBUTES, BITS, Combination
from generation.engine.latents import as_uint8, from_pixels, image_to_latents, latents_to_image
from generation.engine.proportions import Share

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from transformers import ConvNextV2ForImageClassification

    from distillation.detector.network import Detector

BATCH = 32  # pictures at once in the VAE


# --- attributes -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Verdict:
    """asked, judged: int64 (n, 4), an index of the words of each attribute, in the order of ATTRIBUTES."""

    asked: Tensor
    judged: Tensor

    @property
    def right(self) -> Tensor:
        """Return whether the likeliest word of every attribute is the one that was asked for, bool (n,)."""
        return (self.asked == self.judged).all(1)

    @property
    def all_four(self) -> Share:
        return share(self.right)

    def figures(self) -> dict[str, Any]:
        """Return the numbers of the report, shares by attribute last."""
        return {"all_four": self.all_four, **self.per_attribute}

    @property
    def per_attribute(self) -> dict[str, Share]:
        return {
            attribute: share(self.asked[:, column] == self.judged[:, column])
            for column, attribute in enumerate(ATTRIBUTES)
        }


@dataclass(frozen=True)
class BitVerdict(Verdict):
    """A verdict with the detector's 23 bits, each by its own threshold. wanted, present: bool (n, 23).

    calibration_error: the mean distance of a probability from the frequency of its bit.
    """

    wanted: Tensor
    present: Tensor
    calibration_error: float

    @property
    def strict(self) -> Share:
        """Return the share of pictures with all 23 bits as they were asked for."""
        return share((self.wanted == self.present).all(1))

    def figures(self) -> dict[str, Any]:
        return {
            "strict": self.strict,
            "bits_right": self.bits_right,
            "calibration_error": self.calibration_error,
            "balanced_accuracy": self.balanced_accuracy,
            **super().figures(),
        }

    @property
    def bits_right(self) -> float:
        return float((self.wanted == self.present).double().mean())

    @property
    def balanced_accuracy(self) -> dict[str, float | None]:
        """Return the mean of sensitivity and specificity of each bit; None if all pictures have it or none."""
        hits = (self.present & self.wanted).sum(0).double() / self.wanted.sum(0)
        rejections = (~self.present & ~self.wanted).sum(0).double() / (~self.wanted).sum(0)
        values = ((hits + rejections) / 2).tolist()
        return {w: v if isfinite(v) else None for w, v in zip(BITS, values, strict=True)}


@dataclass(frozen=True)
class PartsVerdict(Verdict):
    """A verdict with the parts of objects. lacking: bool (n,), whether the object lacks one of its own."""

    lacking: Tensor

    def figures(self) -> dict[str, Any]:
        return {
            **super().figures(),
            "parts": share(~self.lacking),
            "all_four_and_parts": share(self.right & ~self.lacking),
        }


@dataclass(frozen=True)
class SweepPoint:
    """The same prompts and seeds at one guidance scale. kid_1000: to the test photographs."""

    guidance_scale: float
    all_four: Share
    strict: Share
    kid_1000: Interval


@dataclass(frozen=True)
class Confusion:
    """`share` of the pictures that asked for one word of an attribute and got another."""

    attribute: str
    asked: str
    judged: str
    share: Share


def share(hits: Tensor) -> Share:
    return Share(int(hits.sum()), len(hits))


def asked_words(combinations: Sequence[Combination]) -> Tensor:
    """Return the index of each word in its attribute, int64 (n, 4)."""
    rows = [
        [words.index(chosen) for chosen, words in zip(astuple(c), ATTRIBUTES.values(), strict=True)]
        for c in combinations
    ]
    return torch.tensor(rows)


def by_detector(
    detector: "Detector", images: Tensor, combinations: Sequence[Combination]
) -> BitVerdict:
    """Return the verdict on images uint8 (n, 3, height, width), of n combinations."""
    probabilities = detector.probabilities(fitted(images, detector.config.image_size))
    groups = probabilities.split([len(words) for words in ATTRIBUTES.values()], dim=1)
    wanted = torch.tensor([combination.bits for combination in combinations])
    return BitVerdict(
        asked=asked_words(combinations),
        judged=torch.stack([group.argmax(1) for group in groups], dim=1),
        wanted=wanted,
        present=probabilities >= detector.thresholds,
        calibration_error=expected_calibration_error(probabilities, wanted),
    )


def by_examiner(
    network: "ConvNextV2ForImageClassification",
    images: Tensor,
    combinations: Sequence[Combination],
) -> PartsVerdict:
    """Return the examiner's verdict on images uint8 (n, 3, height, width), of n combinations."""
    verdict = examiner.judge(network, images)
    own = [parts_of(combination.object) for combination in combinations]
    wanted = torch.tensor([[part in parts for part in PARTS] for parts in own])
    return PartsVerdict(
        asked=asked_words(combinations),
        judged=verdict.words,
        lacking=(wanted & ~verdict.parts).any(1),
    )


def by_zero_shot(
    zero_shot: Callable[[Tensor], Mapping[str, Tensor]],
    images: Tensor,
    combinations: Sequence[Combination],
) -> Verdict:
    """Return the verdict of our CLIP on images uint8 (n, 3, height, width).

    zero_shot: returns the index of the word of each attribute for such images.
    """
    words = zero_shot(images)
    judged = torch.stack([words[attribute] for attribute in ATTRIBUTES], dim=1)
    return Verdict(asked_words(combinations), judged)


def joined(verdicts: Sequence[Verdict]) -> Verdict:
    """Return one verdict on all their pictures."""
    return Verdict(
        torch.cat([verdict.asked for verdict in verdicts]),
        torch.cat([verdict.judged for verdict in verdicts]),
    )


def confusion_matrix(verdict: Verdict, attribute: str) -> Tensor:
    """Return how often each word was seen where each was asked for, int64 (asked, seen)."""
    column = list(ATTRIBUTES).index(attribute)
    size = len(ATTRIBUTES[attribute])
    cells = verdict.asked[:, column] * size + verdict.judged[:, column]
    return torch.bincount(cells, minlength=size * size).view(size, size)


def worst_confusions(verdict: Verdict, attribute: str, *, most: int = 3) -> list[Confusion]:
    """Return the most frequent pairs of different words, by share of what was asked for."""
    words = ATTRIBUTES[attribute]
    matrix = confusion_matrix(verdict, attribute)
    found = [
        Confusion(attribute, asked, judged, Share(int(matrix[row, column]), int(matrix[row].sum())))
        for row, asked in enumerate(words)
        for column, judged in enumerate(words)
        if row != column and matrix[row, column]
    ]
    return sorted(found, key=lambda confusion: -confusion.share.value)[:most]


# --- VAE ------------------------------------------------------------------------------------------
@torch.inference_mode()
def reconstruct(vae: "AutoencoderKL", images: Tensor, *, title: str, progress_bar: bool) -> Tensor:
    """Encode and decode images by the mean of the VAE's distribution; return uint8 (n, 3, height, width)."""
    parts = []
    batches = images.split(BATCH)
    bar = Bar(len(batches), title=title, unit="batch", is_shown=progress_bar)
    for part in bar.over(batches):
        latents = image_to_latents(vae, from_pixels(part.permute(0, 2, 3, 1).numpy()))
        parts.append(as_uint8(latents_to_image(vae, latents)).cpu())
    return torch.cat(parts).contiguous()


@dataclass(frozen=True)
class Sharpness:
    """Means over pictures ÷ means over photographs: of the gradient, and of the variance of the Laplacian."""

    gradient: float
    laplacian: float


def sharpness_of(pictures: Tensor, photographs: Tensor) -> Sharpness:
    """Compare uint8 (n, 3, height, width) with photographs of the same combinations; n may differ."""
    ours, theirs = pictures, photographs
    return Sharpness(
        float(sharpness.gradient(ours).mean() / sharpness.gradient(theirs).mean()),
        float(
            sharpness.laplacian_variance(ours).mean() / sharpness.laplacian_variance(theirs).mean()
        ),
    )


def mean_psnr(originals: Tensor, reconstructions: Tensor) -> Interval:
    """Return the mean PSNR over pictures in dB, ± 1.96 standard errors."""
    values = psnr(originals, reconstructions).double()
    mean, error = float(values.mean()), float(values.std() / len(values) ** 0.5)
    return Interval(mean, mean - 1.96 * error, mean + 1.96 * error)
