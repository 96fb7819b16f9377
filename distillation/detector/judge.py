"""Judgement of pictures by the bits that they must and must not show.

Of a group of bits (of which one is true) the wanted one must be the likeliest, as in `evaluation.attributes`, or
nearly: a version's margin is by how much another one may be likelier, so that doubtful pictures are not lost. A bit
that stands alone, and one that must be absent, is judged by its own threshold.
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
from distillation.detector.version import Version

__all__ = ["DetectorUnusable", "Judge", "Judgement", "load"]


@dataclass(frozen=True)
class Judgement:
    """failing: the bits at fault, in the detector's order: wanted and not there, or there and not wanted.

    score: the lowest probability that a stated bit is as it must be; 1 if nothing is stated.
    """

    is_accepted: bool
    failing: tuple[str, ...]
    score: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class _Demand:
    """Demand on one picture, by the numbers of bits. likeliest: (bit, its group)."""

    likeliest: tuple[tuple[int, range], ...]
    present: frozenset[int]
    absent: frozenset[int]
    stated: dict[int, bool]  # bit → whether it must be there


class FurtherBit(Protocol):
    """A bit that no network of the version gives. It is required, as the quality of a picture is."""

    bit: str
    threshold: float

    def probabilities(self, images: Tensor) -> Tensor:
        """Return float32 [N], of uint8 images [N, 3, H, W]."""
        ...


class Judge:
    """A version of the detector, loaded. Made by `load`.

    Bits are those of the classifier, of the quality network, of the mask, and last the further ones. Quality has a
    network of its own, so that the classifier need not forget words of prompts to learn it.
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
        self._group_of = [group for group in _ranges(self.groups) for _ in group]

    def probabilities(self, images: Tensor) -> Tensor:
        """Return calibrated probabilities, float32 [N, bits]. images: uint8 [N, 3, image_size, image_size]."""
        found = [part.probabilities(images) for part in self._networks]
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

        present, absent: for each picture, names that must and must not be there. A present bit of a group makes
        the others absent. Names that are no bits are ignored. The bits of `required` (None: those of the version)
        must be there too, except where `absent` names them or `present` names another bit of their group. Two wanted
        bits of one group, or a bit that is wanted and unwanted, cannot both be right: such a picture fails.
        """
        if not len(images) == len(present) == len(absent):
            raise ValueError(
                f"Say of each of the {len(images)} pictures what must be there ({len(present)} given) "
                f"and what must not ({len(absent)} given)."
            )
        if not len(images):
            return []
        asked = self.required if required is None else tuple(required)
        if unknown := [bit for bit in asked if bit not in self._numbers]:
            raise ValueError(
                f"{self.name} cannot require {', '.join(unknown)}: it has no such bit."
            )
        return [
            self._judgement(row, self._demand(set(wanted), set(unwanted), asked))
            for row, wanted, unwanted in zip(
                self.probabilities(images), present, absent, strict=True
            )
        ]

    def _demand(self, wanted: set[str], unwanted: set[str], required: Sequence[str]) -> _Demand:
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
        return _Demand(
            likeliest=likeliest,
            present=frozenset(present - decided),
            # Where one of the group is wanted, being the likeliest decides; a bit that is wanted too fails below.
            absent=frozenset(absent - (decided - present)),
            stated=stated,
        )

    def _judgement(self, row: Tensor, demand: _Demand) -> Judgement:
        """row: the probabilities of one picture, [bits]."""
        found = (row >= self.thresholds).tolist()
        likely = row.tolist()
        failing = {number for number in demand.present if not found[number]}
        groups = [group for _, group in demand.likeliest]
        for number, group in demand.likeliest:
            # Where two of a group are wanted no margin helps: they cannot both be right.
            margin = self.version.margin if groups.count(group) == 1 else 0.0
            if max(likely[other] for other in group) - likely[number] > margin:
                failing.add(number)
        failing |= {number for number in demand.absent if found[number] or demand.stated[number]}
        sure = [likely[n] if is_wanted else 1 - likely[n] for n, is_wanted in demand.stated.items()]
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
    if (bits, groups, sizes) != (version.bits, version.groups, {version.image_size}):
        raise DetectorUnusable(
            f"{folder / versions.MANIFEST} has other bits or sizes than the networks in its folder. "
            "Copy the folder again."
        )
    return Judge(version, classifier, quality=quality, unet=unet, further=further)


def described(
    classifier: Detector, quality: Detector | None, unet: UNet | None
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the bits of the networks together, and the sizes of their groups: each bit of the mask stands alone."""
    configs = [part.config for part in (classifier, quality) if part is not None]
    of_mask = segmentation.BITS if unet is not None else ()
    bits = tuple(bit for config in configs for bit in config.bits)
    groups = tuple(size for config in configs for size in config.groups)
    return bits + of_mask, groups + (1,) * len(of_mask)


def _ranges(groups: Sequence[int]) -> list[range]:
    """Return the numbers of the bits of each group."""
    found, start = [], 0
    for size in groups:
        found.append(range(start, start + size))
        start += size
    return found
