"""The table of stages from a teacher and a catalogue to a release, and what passes between them. Trains nothing itself.

pairs → decoder, structure → regression → matching → joint → quantise → bundle → evaluation → gate → release. A recipe
may leave out regression, matching and joint; a warm one begins with the networks of a student release (`start`) in
place of decoder and structure. Stages are shared between recipes as far as these agree: see `resumable.stages`.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from distillation.detector import network as detectors
from distillation.detector.network import Detector
from distillation.evaluation.report.sheets import spread
from distillation.pipeline.acceptance import GATE, INCUMBENT, RELEASE, SUMMARY, Proof
from distillation.pipeline.recipes import Recipe
from distillation.resumable import atomic, stages
from distillation.resumable.stages import Context, OnStage, Stage
from distillation.trainers import catalogue as catalogues
from distillation.trainers import (
    decoder,
    dmd2,
    joint,
    pairs,
    quantise,
    regression,
    structure,
    student,
)
from distillation.trainers import real_images as fields
from distillation.trainers import teacher as teachers
from distillation.trainers.catalogue import Catalogue
from distillation.trainers.pairs import Pairs
from distillation.trainers.sample_sheets import Samples
from distillation.trainers.teacher import Teacher
from distillation.training import networks, processes
from distillation.training.errors import RecipeRefused
from generation.engine import bundle, unpacking
from generation.engine import release as releases

START = "start"  # the stage of a warm recipe that takes a student release apart
PAIRS = "pairs"  # of all catalogues: those of a variant are made once


@dataclass(frozen=True)
class Inputs:
    """What a run starts from. detector, clip, real: folders that filter and judge pictures; None: nothing does.

    student: the release that a warm recipe begins with. active: the one that the result is to take the place of, which
    is measured beside it.
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
class _Keyed:
    """A stage's recipe together with what the stage reads beside other stages, by its content."""

    recipe: Any
    inputs: tuple[str, ...] = ()


class Chain:
    """One recipe over one set of inputs; networks are loaded when a stage first needs them."""

    def __init__(self, recipe: Recipe, inputs: Inputs, *, name: str | None = None) -> None:
        """name: of the release; None names it after the recipe and what it is made from."""
        self.recipe = recipe
        self.inputs = inputs
        self.name = name or ""
        self._shown: Samples | None = None
        # Once: whoever asks for the table again must not read the pictures again.
        self._made_from = (
            _digest(inputs.teacher),
            _digest(inputs.catalogue, without=(catalogues.EXAMPLES, catalogues.PICTURES)),
            _digest(inputs.detector),
        )
        examples = inputs.catalogue / catalogues.EXAMPLES  # which names the files by their content
        self._examples = (_digest(examples),) if examples.is_file() else ()
        self._begun_with = _digest(inputs.student)
        self._replaced = (*self._made_from, _digest(inputs.active))
        self._judged_by = tuple(_digest(folder) for folder in (inputs.clip, inputs.real))
        if not name:
            key = stages.keys(self.table())["bundle"]
            self.name = f"{recipe.name}-{key[:8]}"

    def check(self) -> None:
        """Refuse, before hours are spent, a recipe that does not fit the teacher. Raises TrainingError."""
        if self.inputs.detector is None and self.inputs.clip is None:
            raise RecipeRefused(
                "Nothing judges the pictures, so nobody would know what was lost. Give a CLIP (--clip), "
                "such as a download of openai/clip-vit-base-patch32, or a detector (--detector), or both."
            )
        self.recipe.check(self.teacher)
        pairs.solver_timesteps(self.recipe.pairs, self.teacher)
        if self.recipe.is_warm:
            self._check_student()
        else:
            student.make(self.teacher, self.recipe.student)

    def _check_student(self) -> None:
        """Raises RecipeRefused unless the student to begin with is served as the recipe's is, and is this teacher's."""
        if self.inputs.student is None:
            raise RecipeRefused("structure is left out: give a student release to begin with.")
        manifest = releases.read(self.inputs.student)
        if manifest.kind != "student":
            raise RecipeRefused(f"{manifest.name} is a {manifest.kind}; begin with a student.")
        for field, here, there in (
            ("timesteps", list(self.recipe.timesteps), manifest.timesteps),
            ("teacher", self.teacher.manifest.name, manifest.parent),
            (
                "image_size",
                list(self.teacher.manifest.image_sizes[0]),
                list(manifest.image_sizes[0]),
            ),
        ):
            if here != there:
                raise RecipeRefused(
                    f"{field}: {manifest.name} has {there}, this run {here}. Begin anew, without a student."
                )

    # --- inputs -----------------------------------------------------------------------------------
    @cached_property
    def teacher(self) -> Teacher:
        return teachers.load(self.inputs.teacher)

    @cached_property
    def catalogue(self) -> Catalogue:
        return catalogues.read(self.inputs.catalogue)

    @cached_property
    def detector(self) -> Detector | None:
        return None if self.inputs.detector is None else detectors.load(self.inputs.detector)

    @cached_property
    def proof(self) -> Proof:
        return Proof(
            self.recipe,
            self.catalogue,
            teacher=self.inputs.teacher,
            active=self.inputs.active,
            detector=self.inputs.detector,
            clip=self.inputs.clip,
            real=self.inputs.real,
        )

    def _samples(self, context: Context) -> Samples | None:
        """Of the same pairs in all stages; only the main process shows them."""
        if not processes.is_main():
            return None
        if self._shown is None:
            self._shown = Samples(
                self.teacher,
                pairs=pairs.read(
                    context.needs["pairs"], "held_out", prompts=spread(len(self.catalogue))
                ),
                catalogue=self.catalogue,
            )
        return self._shown

    def _accepted(self, context: Context) -> Pairs:
        return pairs.read(context.needs["pairs"], "train", only_accepted=True)

    # --- the table --------------------------------------------------------------------------------
    def table(self) -> tuple[Stage, ...]:
        """The stages in order. Raise a stage's revision when its code makes something else."""
        recipe = self.recipe
        found = [
            Stage("pairs", _Keyed(recipe.pairs, self._made_from), (), self._pairs, revision=3),
        ]
        if recipe.is_warm:
            found.append(Stage(START, _Keyed((), (self._begun_with,)), (), self._start))
        else:
            found += [
                Stage("decoder", recipe.decoder, ("pairs",), self._decoder),
                Stage(
                    "structure",
                    _Keyed((recipe.student, recipe.structure), self._more_teachers()),
                    ("pairs",),
                    self._structure,
                ),
            ]
        for name, part, train in (
            ("regression", recipe.regression, regression.train),
            ("matching", recipe.matching, dmd2.train),
            ("joint", recipe.joint, joint.train),
            ("quantise", recipe.quantise, quantise.train),
        ):
            if part is not None:
                before = found[-1].name
                first = START if recipe.is_warm else "structure"
                needs = tuple(dict.fromkeys(("pairs", self._drawing(before), first, before)))
                build = self._tuning(train, part, before)
                examples = self._examples if getattr(part, "adversarial", None) else ()
                keyed = _Keyed((part, recipe.timesteps), examples)
                found.append(Stage(name, keyed, needs, build))
        found += [
            Stage(
                "bundle",
                _Keyed((), (self.name,)),
                ("quantise", self._drawing("quantise")),
                self._bundle,
            ),
            Stage(
                "evaluation",
                _Keyed(recipe.evaluation, self._judged_by),
                ("bundle",),
                self.proof.evaluation,
            ),
        ]
        compared: tuple[str, ...] = ("bundle", "evaluation")
        if self.proof.has_incumbent:
            incumbent = _Keyed(recipe.evaluation, (*self._judged_by, *self._replaced))
            found.append(Stage(INCUMBENT, incumbent, (), self.proof.incumbent))
            compared = (*compared, INCUMBENT)
        found += [
            Stage(GATE, _Keyed(recipe.gate), compared, self.proof.gate),
            Stage(RELEASE, _Keyed(()), ("bundle", "evaluation"), self._release),
        ]
        return tuple(found)

    def _drawing(self, before: str) -> str:
        """The stage whose decoder draws what the student of the stage `before` makes."""
        if self.recipe.joint is not None and before in ("joint", "quantise"):
            return "joint"
        return START if self.recipe.is_warm else "decoder"

    def _more_teachers(self) -> tuple[str, ...]:
        """By their content; of an ensemble alone."""
        if self.recipe.structure is None:
            return ()
        folders = getattr(self.recipe.structure.objective, "teachers", ())
        return tuple(_digest(Path(folder)) for folder in folders)

    def build(
        self,
        root: Path,
        *,
        only: Collection[str] | None = None,
        on_stage: OnStage | None = None,
        progress_bar: bool = True,
    ) -> dict[str, Path]:
        """`stages.build` of the table, in one process or in several that `accelerate launch` started."""
        return stages.build(
            self.table(),
            root,
            only=only,
            on_stage=on_stage if processes.is_main() else None,
            progress_bar=progress_bar and processes.is_main(),
            leads=processes.is_main(),
            meet=processes.barrier,
        )

    # --- what the stages do -----------------------------------------------------------------------
    def _pairs(self, context: Context) -> None:
        pairs.generate(
            self.recipe.pairs,
            teacher=self.teacher,
            catalogue=self.catalogue,
            detector=self.detector,
            folder=context.folder,
            store=context.folder.parent / PAIRS / stages.key_of(self._pairs_of_a_variant()),
            progress_bar=context.progress_bar,
        )

    def _pairs_of_a_variant(self) -> _Keyed:
        """What they depend on, beside the variant."""
        teacher, _, detector = self._made_from
        return _Keyed(self.recipe.pairs, (teacher, detector))

    def files_of_pairs(self) -> list[Path]:
        """Of the catalogue's variants, relative to the root, whether or not they are there."""
        store = Path(PAIRS) / stages.key_of(self._pairs_of_a_variant())
        return [store / f"{key}.safetensors" for key in pairs.keys(self.catalogue)]

    def _start(self, context: Context) -> None:
        """The student release's networks, fp32."""
        if self.inputs.student is None:
            raise RecipeRefused("structure is left out: give a student release to begin with.")
        manifest = releases.read(self.inputs.student)
        networks.save(
            unpacking.unet(self.inputs.student / "unet", manifest.timesteps),
            context.folder / "unet",
        )
        networks.save(unpacking.decoder(self.inputs.student / "vae"), context.folder / "vae")

    def _decoder(self, context: Context) -> None:
        decoder.train(
            context.recipe,
            teacher=self.teacher,
            pairs=pairs.read(context.needs["pairs"], "train"),
            folder=context.folder,
            progress_bar=context.progress_bar,
            samples=self._samples(context),
        )

    def _structure(self, context: Context) -> None:
        student_recipe, recipe = context.recipe.recipe
        structure.train(
            recipe,
            teacher=self.teacher,
            student_recipe=student_recipe,
            pairs=self._accepted(context),
            catalogue=self.catalogue,
            folder=context.folder,
            progress_bar=context.progress_bar,
            samples=self._samples(context),
        )

    def _tuning(
        self, train: Callable[..., object], recipe: Any, before: str
    ) -> Callable[[Context], None]:
        """A stage that goes on with the student of the stage `before`."""

        def build(context: Context) -> None:
            more: dict[str, Any] = {}
            if recipe is not self.recipe.quantise:  # which changes nothing that people would see
                more["samples"] = self._samples(context)
            if getattr(recipe, "fake_score", None) == "student":
                more["structure"] = self._unet(context, "structure")
            if getattr(recipe, "adversarial", None):
                more["field"] = fields.read(
                    self.inputs.catalogue, teacher=self.teacher, catalogue=self.catalogue
                )
            train(
                recipe,
                teacher=self.teacher,
                student=self._unet(context, before),
                decoder=networks.load(
                    AutoencoderTiny, context.needs[self._drawing(before)] / "vae"
                ).to(self.teacher.device),
                pairs=self._accepted(context),
                catalogue=self.catalogue,
                timesteps=self.recipe.timesteps,
                folder=context.folder,
                progress_bar=context.progress_bar,
                **more,
            )

        return build

    def _unet(self, context: Context, stage: str) -> UNet2DConditionModel:
        unet = networks.load(UNet2DConditionModel, context.needs[stage] / "unet")
        unet.set_attn_processor(self.teacher.attention_processor())
        return unet.to(self.teacher.device)

    def _bundle(self, context: Context) -> None:
        if not processes.is_main():
            return
        bundle.write(
            context.folder / RELEASE,
            unet=networks.load(UNet2DConditionModel, context.needs["quantise"] / "unet"),
            decoder=networks.load(
                AutoencoderTiny, context.needs[self._drawing("quantise")] / "vae"
            ),
            scheduler_config=self.teacher.scheduler_config,
            timesteps=self.recipe.timesteps,
            name=self.name,
            teacher=self.teacher.manifest,
            slugs=self.catalogue.slugs,
            texts=self.catalogue.texts,
            prompt_embeds=self.catalogue.prompt_embeds,
            recipe=asdict(self.recipe),
            code_revision=self.inputs.code_revision,
            evaluation=None,
        )

    def _release(self, context: Context) -> None:
        """The bundle, with the evaluation in its manifest."""
        if not processes.is_main():
            return
        summary = json.loads((context.needs["evaluation"] / SUMMARY).read_text("utf-8"))

        def make(folder: Path) -> None:
            shutil.copytree(context.needs["bundle"] / RELEASE, folder)
            releases.write(folder, replace(releases.read(folder), evaluation=summary))

        atomic.make_folder(context.folder / RELEASE, make)


def _digest(folder: Path | None, *, without: Collection[str] = ()) -> str:
    """Of a folder's content: of its manifest where it is a release, which has the hashes of all files.

    without: files and folders at its top that are left out. Of a file alone: of its bytes.
    """
    if folder is None:
        return ""
    if folder.is_file():
        return hashlib.sha256(folder.read_bytes()).hexdigest()
    manifest = folder / releases.MANIFEST
    files = [manifest] if manifest.exists() else sorted(p for p in folder.rglob("*") if p.is_file())
    digest = hashlib.sha256()
    for path in files:
        if path.relative_to(folder).parts[0] in without:
            continue
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
