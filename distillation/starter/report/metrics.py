"""Metrics of pictures by the detector, the examiner and our CLIP, and metrics of the VAE, with intervals."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from distillation.detector.calibration import expected_calibration_error
from distillation.detector.network import resized
from distillation.image_metrics import sharpness
from distillation.image_metrics.distances import Interval, psnr
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

BATCH = 32  # pictures per forward pass of the VAE


# --- attributes -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Verdict:
    """asked, judged: index of the requested and of the predicted word of each attribute, int64 [N, 4]."""

    asked: Tensor
    judged: Tensor

    @property
    def right(self) -> Tensor:
        """Whether the predicted word of every attribute is the requested one, bool [N]."""
        return (self.asked == self.judged).all(1)

    @property
    def all_four(self) -> Share:
        return share(self.right)

    def figures(self) -> dict[str, Any]:
        """Return the numbers for the report; the shares by attribute come last."""
        return {"all_four": self.all_four, **self.per_attribute}

    @property
    def per_attribute(self) -> dict[str, Share]:
        return {
            attribute: share(self.asked[:, column] == self.judged[:, column])
            for column, attribute in enumerate(ATTRIBUTES)
        }


@dataclass(frozen=True)
class BitVerdict(Verdict):
    """A verdict with the detector's 23 bits. wanted: requested; present: at or above the threshold; bool [N, 23].

    calibration_error: expected calibration error.
    """

    wanted: Tensor
    present: Tensor
    calibration_error: float

    @property
    def strict(self) -> Share:
        """The share of pictures in which all 23 bits are as requested."""
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
        """The mean of sensitivity and specificity of each bit; None if it is requested for all pictures or for none."""
        hits = (self.present & self.wanted).sum(0).double() / self.wanted.sum(0)
        rejections = (~self.present & ~self.wanted).sum(0).double() / (~self.wanted).sum(0)
        values = ((hits + rejections) / 2).tolist()
        return {w: v if isfinite(v) else None for w, v in zip(BITS, values, strict=True)}


@dataclass(frozen=True)
class PartsVerdict(Verdict):
    """A verdict with the parts of objects. lacking: whether a part of the object is missing, bool [N]."""

    lacking: Tensor

    def figures(self) -> dict[str, Any]:
        return {
            **super().figures(),
            "parts": share(~self.lacking),
            "all_four_and_parts": share(self.right & ~self.lacking),
        }


@dataclass(frozen=True)
class SweepPoint:
    """Metrics at one guidance scale. kid_1000: KID × 1000 to the test photographs."""

    guidance_scale: float
    all_four: Share
    strict: Share
    kid_1000: Interval


@dataclass(frozen=True)
class Confusion:
    """share: of the pictures with the requested word `asked`, those with the predicted word `judged`."""

    attribute: str
    asked: str
    judged: str
    share: Share


def share(hits: Tensor) -> Share:
    """Return the share of true values. hits: bool [N]."""
    return Share(int(hits.sum()), len(hits))


def asked_words(combinations: Sequence[Combination]) -> Tensor:
    """Return the index of each word in its attribute, int64 [N, 4]."""
    rows = [
        [words.index(chosen) for chosen, words in zip(astuple(c), ATTRIBUTES.values(), strict=True)]
        for c in combinations
    ]
    return torch.tensor(rows)


def by_detector(
    detector: "Detector", images: Tensor, combinations: Sequence[Combination]
) -> BitVerdict:
    """Return the detector's verdict. images: uint8 [N, 3, height, width], of N combinations."""
    probabilities = detector.probabilities(resized(images, detector.config.image_size))
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
    """Return the examiner's verdict. images: uint8 [N, 3, height, width], of N combinations."""
    prediction = examiner.predict(network, images)
    complete = [parts_of(combination.object) for combination in combinations]
    wanted = torch.tensor([[part in parts for part in PARTS] for parts in complete])
    return PartsVerdict(
        asked=asked_words(combinations),
        judged=prediction.words,
        lacking=(wanted & ~prediction.parts).any(1),
    )


def by_zero_shot(
    zero_shot: Callable[[Tensor], Mapping[str, Tensor]],
    images: Tensor,
    combinations: Sequence[Combination],
) -> Verdict:
    """Return the verdict of our CLIP. images: uint8 [N, 3, height, width], of N combinations.

    zero_shot: returns for each attribute the index of the predicted word, int64 [N].
    """
    words = zero_shot(images)
    judged = torch.stack([words[attribute] for attribute in ATTRIBUTES], dim=1)
    return Verdict(asked_words(combinations), judged)


def joined(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the concatenation of the verdicts."""
    return Verdict(
        torch.cat([verdict.asked for verdict in verdicts]),
        torch.cat([verdict.judged for verdict in verdicts]),
    )


def confusion_matrix(verdict: Verdict, attribute: str) -> Tensor:
    """Return the confusion matrix of an attribute's words, counts, int64 [requested, predicted]."""
    column = list(ATTRIBUTES).index(attribute)
    size = len(ATTRIBUTES[attribute])
    cells = verdict.asked[:, column] * size + verdict.judged[:, column]
    return torch.bincount(cells, minlength=size * size).view(size, size)


def worst_confusions(verdict: Verdict, attribute: str, *, most: int = 3) -> list[Confusion]:
    """Return the most frequent confusions, by their share of the requests for the word, at most `most`."""
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
    """Return the images reconstructed from the mean of the VAE's posterior, uint8 [N, 3, height, width]."""
    parts = []
    batches = images.split(BATCH)
    bar = Bar(len(batches), title=title, unit="batch", is_shown=progress_bar)
    for part in bar.over(batches):
        latents = image_to_latents(vae, from_pixels(part.permute(0, 2, 3, 1).numpy()))
        parts.append(as_uint8(latents_to_image(vae, latents)).cpu())
    return torch.cat(parts).contiguous()


@dataclass(frozen=True)
class Sharpness:
    """Ratios of pictures to photographs: of the mean gradient, and of the mean variance of the Laplacian."""

    gradient: float
    laplacian: float


def sharpness_of(pictures: Tensor, photographs: Tensor) -> Sharpness:
    """Return the sharpness of pictures relative to photographs; both uint8 [N, 3, height, width], N may differ."""
    return Sharpness(
        float(sharpness.gradient(pictures).mean() / sharpness.gradient(photographs).mean()),
        float(
            sharpness.laplacian_variance(pictures).mean()
            / sharpness.laplacian_variance(photographs).mean()
        ),
    )


def mean_psnr(originals: Tensor, reconstructions: Tensor) -> Interval:
    """Return the mean PSNR over images in dB, with the interval of ± 1.96 standard errors."""
    values = psnr(originals, reconstructions).double()
    mean, error = float(values.mean()), float(values.std() / len(values) ** 0.5)
    return Interval(mean, mean - 1.96 * error, mean + 1.96 * error)
