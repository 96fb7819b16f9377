"""Inputs of a run: its folders, digests of their content, and the networks and pairs read from them."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from distillation.detector import network as detectors
from distillation.detector.network import Detector
from distillation.evaluation.prompts import Prompts
from distillation.evaluation.report.sheets import chosen
from distillation.resumable.stages import Context
from distillation.trainers import catalogue as catalogues
from distillation.trainers import pairs
from distillation.trainers import teacher as teachers
from distillation.trainers.catalogue import Catalogue
from distillation.trainers.inputs import StageInputs
from distillation.trainers.sample_sheets import Samples
from distillation.trainers.teacher import Teacher
from distillation.training import networks, processes
from generation.engine import release as releases
from generation.engine.prompts import prompt_embeds
from generation.engine.prompts.texts import normalize


@dataclass(frozen=True)
class Inputs:
    """Inputs of a run as folders. detector, clip, real: networks and real pictures that filter and judge; None = none.

    student: the release that a warm recipe starts from. active: the release to be replaced, measured for comparison.
    """

    teacher: Path
    catalogue: Path
    student: Path | None = None
    active: Path | None = None
    detector: Path | None = None
    clip: Path | None = None
    real: Path | None = None
    code_revision: str = ""


@dataclass(frozen=True)
class Keyed:
    """What the key of a stage is made from: its recipe, and digests of inputs that it reads besides other stages."""

    recipe: Any
    inputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Digests:
    """Digests of the inputs, made once for a chain: they read whole folders."""

    teacher: str
    catalogue: str
    detector: str
    student: str
    active: str
    judges: tuple[str, ...]  # CLIP and the real pictures
    examples: tuple[str, ...]  # the accepted pictures, if the catalogue has any

    @classmethod
    def of(cls, inputs: Inputs) -> "Digests":
        examples = inputs.catalogue / catalogues.EXAMPLES  # which names the files by their content
        return cls(
            teacher=digest(inputs.teacher),
            catalogue=digest(
                inputs.catalogue,
                without=(catalogues.EXAMPLES, catalogues.PICTURES, catalogues.HARD),
            ),
            detector=digest(inputs.detector),
            student=digest(inputs.student),
            active=digest(inputs.active),
            judges=(digest(inputs.clip), digest(inputs.real)),
            examples=(digest(examples),) if examples.is_file() else (),
        )


class Loaded:
    """What stages read from the inputs and from other stages' folders; networks are loaded when first needed."""

    def __init__(self, inputs: Inputs, *, drawn: Path | None = None) -> None:
        """drawn: see `trainers.teacher.Teacher`."""
        self._inputs, self._drawn = inputs, drawn
        self._samples: Samples | None = None

    @cached_property
    def teacher(self) -> Teacher:
        return replace(teachers.load(self._inputs.teacher), drawn=self._drawn)

    @cached_property
    def catalogue(self) -> Catalogue:
        return catalogues.read(self._inputs.catalogue)

    @cached_property
    def detector(self) -> Detector | None:
        return None if self._inputs.detector is None else detectors.load(self._inputs.detector)

    def for_stage(
        self,
        context: Context,
        *,
        only_accepted: bool = True,
        shows_samples: bool = True,
        with_path: bool = False,
    ) -> StageInputs:
        """Return the inputs of a training. Raises RecipeRefused if only_accepted and no pair was accepted.

        with_path: read the points of the trajectories too, which take most of the pairs' memory.
        """
        return StageInputs(
            teacher=self.teacher,
            pairs=pairs.read(
                context.needs["pairs"], "train", only_accepted=only_accepted, with_path=with_path
            ),
            catalogue=self.catalogue,
            folder=context.folder,
            progress_bar=context.progress_bar,
            samples=self._shown(context) if shows_samples else None,
        )

    def _shown(self, context: Context) -> Samples | None:
        """Return samples of the same pairs in all stages; None in other processes than the main one."""
        if self._samples is None and processes.is_main():
            shown = chosen(len(self.catalogue), new_rows(self.catalogue, self._inputs.active))
            held_out = pairs.read(
                context.needs["pairs"], "held_out", prompts=shown, with_path=False
            )
            self._samples = Samples(
                self.teacher, pairs=held_out, catalogue=self.catalogue, order=shown
            )
        return self._samples

    def unet(self, folder: Path) -> UNet2DConditionModel:
        """Load a stage's student, on the teacher's device."""
        unet = networks.load(UNet2DConditionModel, folder / "unet")
        unet.set_attn_processor(self.teacher.attention_processor())
        return unet.to(self.teacher.device)

    def decoder(self, folder: Path) -> AutoencoderTiny:
        """Load a stage's decoder, on the teacher's device."""
        return networks.load(AutoencoderTiny, folder / "vae").to(self.teacher.device)


def new_rows(prompts: Prompts, active: Path | None) -> list[int]:
    """Return the indices of the prompts that the release to be replaced does not cover with their present texts; empty
    without one. Raises ReleaseInvalid.
    """
    manifest = None if active is None else releases.read(active)
    if active is None or manifest is None or not manifest.covered_variants:
        return []
    if prompt_embeds.listed(manifest) is None:  # it has no texts
        known = dict.fromkeys(manifest.covered_variants)
    else:
        texts = prompt_embeds.read_texts(active, manifest)
        known = {slug: normalize(text) for slug, text in texts.items()}
    found = enumerate(zip(prompts.slugs, prompts.texts, strict=True))
    return [
        row
        for row, (slug, text) in found
        if slug not in known or known[slug] not in (None, normalize(text))
    ]


def digest(folder: Path | None, *, without: Collection[str] = ()) -> str:
    """Return a hash of a folder's content; of a release only its manifest is read, which has the hashes of all files.

    without: top-level files and folders to leave out. For a single file: the hash of its bytes; for None: "".
    """
    if folder is None:
        return ""
    if folder.is_file():
        return hashlib.sha256(folder.read_bytes()).hexdigest()
    manifest = folder / releases.MANIFEST
    files = [manifest] if manifest.exists() else sorted(p for p in folder.rglob("*") if p.is_file())
    found = hashlib.sha256()
    for path in files:
        if path.relative_to(folder).parts[0] in without:
            continue
        found.update(path.relative_to(folder).as_posix().encode())
        found.update(path.read_bytes())
    return found.hexdigest()
