"""Judgement of pictures by the bits that they must and must not show.

In a group of mutually exclusive bits the wanted one must be the most likely, as in `evaluation.attributes`; another one
may be more likely by up to the version's margin, so that doubtful pictures are not lost. A single bit, and a bit that
must be absent, is judged by its own threshold.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from distillation.detector import network, segmentation
from distillation.detector import version as versions
from distillation.detector.errors import DetectorUnusable
from distillation.detector.network import Detector
from distillation.detector.segmentation import UNet
from distillation.detector.version import Version, grouped

__all__ = ["DetectorUnusable", "Judge", "Judgement", "load"]


@dataclass(frozen=True)
class Judgement:
    """Judgement of a picture. failing: bits wanted but absent, or present but unwanted, in the detector's order.

    score: the lowest probability of a stated bit being as stated; 1 if nothing is stated.
    """

    is_accepted: bool
    failing: tuple[str, ...]
    score: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class _Requirements:
    """Requirements on a picture, by indices of bits. likeliest: (bit, group) where the bit must be the most likely."""

    likeliest: tuple[tuple[int, tuple[int, ...]], ...]
    present: frozenset[int]
    absent: frozenset[int]
    stated: dict[int, bool]  # bit → whether it must be present


class FurtherBit(Protocol):
    """An additional bit, from outside the version's networks. It is required of every picture."""

    bit: str
    threshold: float

    def probabilities(self, images: Tensor) -> Tensor:
        """Return the probability of the bit, float32 [N]. images: uint8 [N, 3, H, W]."""
        ...


class Judge:
    """A loaded version of the detector. Made by `load`.

    Its bits are those of the classifier, the quality network and the mask, then the additional ones. Quality has a
    separate network, because learning it costs the classifier accuracy on the words of prompts. Each network scales
    the pictures to its own size.
    """

    def __init__(
        self,
        version: Version,
        classifier: Detector,
        *,
        quality: Detector | None = None,
        unet: UNet | None = None,
        further: Sequence[FurtherBit] = (),
    ) -> None:
        names = tuple(one.bit for one in further)
        self.version = version
        self.name = version.name
        self.bits = version.bits + names
        self.groups = version.groups + (1,) * len(names)
        self.required = version.required + names
        self.further = tuple(further)
        self.image_size = version.image_size
        self.classifier = classifier
        self.quality = quality
        self.unet = unet
        self._networks = [part for part in (classifier, quality, unet) if part is not None]
        limits = [part.thresholds for part in self._networks]
        self.thresholds = torch.cat([*limits, torch.tensor([one.threshold for one in further])])
        self._numbers = {bit: number for number, bit in enumerate(self.bits)}
        self._group_of = [
            group for group in grouped(range(len(self.bits)), self.groups) for _ in group
        ]

    def probabilities(self, images: Tensor) -> Tensor:
        """Return calibrated probabilities, float32 [N, bits]. images: uint8 [N, 3, image_size, image_size]."""
        found = [
            part.probabilities(network.resized(images, part.config.image_size))
            for part in self._networks
        ]
        found += [one.probabilities(images)[:, None] for one in self.further]
        return torch.cat(found, dim=1)

    def judge(
        self,
        images: Tensor,
        *,
        present: Sequence[Collection[str]],
        absent: Sequence[Collection[str]],
        required: Collection[str] | None = None,
    ) -> list[Judgement]:
        """Return one judgement for each picture. images: uint8 [N, 3, image_size, image_size].

        present, absent: for each picture, names of bits that must and must not be present. A present bit of a group
        makes the others absent. Unknown names are ignored. The bits of `required` (None: those of the version) must be
        present too, except where `absent` names them or `present` names another bit of their group. A picture fails
        if two bits of one group are wanted, or if a bit is both wanted and unwanted.
        """
        if not len(images) == len(present) == len(absent):
            raise ValueError(
                f"Give present ({len(present)} given) and absent ({len(absent)} given) for each of the "
                f"{len(images)} pictures."
            )
        if not len(images):
            return []
        asked = self.required if required is None else tuple(required)
        if unknown := [bit for bit in asked if bit not in self._numbers]:
            raise ValueError(
                f"{self.name} cannot require {', '.join(unknown)}: it has no such bit."
            )
        return [
            self._judgement(row, self._requirements(set(wanted), set(unwanted), asked))
            for row, wanted, unwanted in zip(
                self.probabilities(images), present, absent, strict=True
            )
        ]

    def _requirements(
        self, wanted: set[str], unwanted: set[str], required: Sequence[str]
    ) -> _Requirements:
        present = {self._numbers[bit] for bit in wanted if bit in self._numbers}
        absent = {self._numbers[bit] for bit in unwanted if bit in self._numbers}
        for bit in required:
            number = self._numbers[bit]
            if number not in absent and present.isdisjoint(self._group_of[number]):
                present.add(number)
        likeliest = tuple(
            (number, self._group_of[number])
            for number in present
            if len(self._group_of[number]) > 1
        )
        stated = dict.fromkeys(absent, False)
        for _, group in likeliest:
            stated |= dict.fromkeys(group, False)
        stated |= dict.fromkeys(present, True)
        decided = {number for _, group in likeliest for number in group}
        return _Requirements(
            likeliest=likeliest,
            present=frozenset(present - decided),
            # In a group with a wanted bit the most likely bit decides; a bit both wanted and unwanted fails below.
            absent=frozenset(absent - (decided - present)),
            stated=stated,
        )

    def _judgement(self, row: Tensor, needed: _Requirements) -> Judgement:
        """Return the judgement of one picture. row: its probabilities, [bits]."""
        found = (row >= self.thresholds).tolist()
        likely = row.tolist()
        failing = {number for number in needed.present if not found[number]}
        groups = [group for _, group in needed.likeliest]
        for number, group in needed.likeliest:
            # No margin if two bits of a group are wanted: they cannot both be right.
            margin = self.version.margin if groups.count(group) == 1 else 0.0
            if max(likely[other] for other in group) - likely[number] > margin:
                failing.add(number)
        failing |= {number for number in needed.absent if found[number] or needed.stated[number]}
        sure = [likely[n] if is_wanted else 1 - likely[n] for n, is_wanted in needed.stated.items()]
        return Judgement(
            is_accepted=not failing,
            failing=tuple(self.bits[number] for number in sorted(failing)),
            score=min(sure, default=1.0),
            probabilities=dict(zip(self.bits, likely, strict=True)),
        )


def load(folder: Path, *, further: Sequence[FurtherBit] = ()) -> Judge:
    """Load a version of the detector, or a plain classifier, which requires no bit. Raises DetectorUnusable."""
    folder = Path(folder)
    version = versions.read(folder)
    classifier = network.load(folder)
    has_quality, has_mask = (
        version.has(part) for part in (versions.QUALITY, versions.SEGMENTATION)
    )
    quality = network.load(folder / versions.QUALITY) if has_quality else None
    unet = segmentation.load(folder / versions.SEGMENTATION) if has_mask else None
    bits, groups = described(classifier, quality, unet)
    sizes = {part.config.image_size for part in (classifier, quality, unet) if part is not None}
    if (bits, groups, max(sizes)) != (version.bits, version.groups, version.image_size):
        raise DetectorUnusable(
            f"{folder / versions.MANIFEST} has other bits or sizes than the networks in its folder. "
            "Copy the folder again."
        )
    return Judge(version, classifier, quality=quality, unet=unet, further=further)


def described(
    classifier: Detector, quality: Detector | None, unet: UNet | None
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the bits of all networks, and the sizes of their groups; each bit of the mask is a group of one."""
    configs = [part.config for part in (classifier, quality) if part is not None]
    of_mask = segmentation.BITS if unet is not None else ()
    bits = tuple(bit for config in configs for bit in config.bits)
    groups = tuple(size for config in configs for size in config.groups)
    return bits + of_mask, groups + (1,) * len(of_mask)
