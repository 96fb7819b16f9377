"""Table of the stages from a teacher and a catalogue to a release, and what each of them builds.

pairs → decoder, structure → regression → matching → joint → quantise → bundle → evaluation → gate → release. A recipe
may leave out regression, matching and joint; a warm one starts from the networks of a student release (stage `start`)
instead of structure and, unless it trains a new one, decoder. Recipes share the stages whose inputs are equal: see
`resumable.stages`.
"""

import json
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from distillation.pipeline.acceptance import GATE, INCUMBENT, RELEASE, SUMMARY, Acceptance
from distillation.pipeline.inputs import Digests, Inputs, Keyed, Loaded, digest
from distillation.pipeline.recipes import INT8, Recipe
from distillation.resumable import atomic, stages
from distillation.resumable.stages import Context, OnStage, Stage
from distillation.trainers import catalogue as catalogues
from distillation.trainers import (
    decoder,
    joint,
    pairs,
    perception,
    quantise,
    real_images,
    regression,
    structure,
    student,
)
from distillation.trainers.catalogue import Catalogue
from distillation.trainers.dmd2 import discriminator
from distillation.trainers.dmd2 import trainer as dmd2
from distillation.trainers.dmd2.discriminator import AdversarialRecipe
from distillation.trainers.dmd2.recipe import MatchingRecipe
from distillation.trainers.inputs import TuningInputs
from distillation.trainers.labels import Labels
from distillation.trainers.patches import PatchesRecipe
from distillation.trainers.teacher import Teacher
from distillation.training import networks, processes
from distillation.training.errors import RecipeRefused
from generation.engine import bundle, unpacking
from generation.engine import release as releases
from generation.engine.errors import ReleaseInvalid

START = "start"  # the stage of a warm recipe that unpacks a student release
PAIRS = "pairs"  # the folder of pairs, shared by all catalogues: those of a variant are made once
Train = Callable[[Any, TuningInputs], object]


class Chain:
    """The stages of one recipe over one set of inputs."""

    def __init__(
        self,
        recipe: Recipe,
        inputs: Inputs,
        *,
        name: str | None = None,
        loaded: Loaded | None = None,
    ) -> None:
        """name: of the release; None = the recipe's name with a hash of its inputs. loaded: shared by chains of the
        same inputs.
        """
        self.recipe = recipe
        self.inputs = inputs
        self.name = name or ""
        self._loaded = loaded or Loaded(inputs)
        self._digests = Digests.of(inputs)
        if not name:
            key = stages.keys(self.table())["bundle"]
            self.name = f"{recipe.name}-{key[:8]}"

    @property
    def teacher(self) -> Teacher:
        return self._loaded.teacher

    @property
    def catalogue(self) -> Catalogue:
        return self._loaded.catalogue

    @cached_property
    def _acceptance(self) -> Acceptance:
        return Acceptance(self.recipe, self.catalogue, self.inputs, name=lambda: self.name)

    def check(self) -> None:
        """Raise TrainingError, before hours are spent, if the recipe does not fit the inputs."""
        if not releases.is_name(self.name):
            raise RecipeRefused(
                f"name: {self.name!r} is not a valid name of a release. Give letters, digits, - and _, at most 100."
            )
        if self.inputs.detector is None and self.inputs.clip is None:
            raise RecipeRefused(
                "Nothing judges the pictures, so the student's quality would be unknown. Give a CLIP (--clip), "
                "such as a download of openai/clip-vit-base-patch32, or a detector (--detector), or both."
            )
        if self.inputs.detector is None and self.recipe.labels is not None:
            raise RecipeRefused(
                "labels are the classes of a detector. Give one (--detector), or leave labels out."
            )
        self.recipe.check(self.teacher)
        pairs.solver_timesteps(self.recipe.pairs, self.teacher)
        config = None
        if self.recipe.is_warm:
            self._check_student()
        else:
            config = student.make(self.teacher, self.recipe.student).config
        self._check_trainings(config)
        self._acceptance.check()

    def _check_trainings(self, config: Mapping[str, Any] | None) -> None:
        """Raise TrainingError if a later stage would refuse its part of the recipe, after hours of earlier stages.

        config: of a new student.
        """
        recipe, teacher = self.recipe, self.teacher
        parts = (recipe.decoder, recipe.regression, recipe.matching, recipe.joint, recipe.quantise)
        for part in parts:
            if part is not None:
                processes.share(part.batch)
        if recipe.structure is not None:
            has_paths = bool(recipe.pairs.path_timesteps)
            recipe.structure.check_fit(teacher, recipe.student, has_paths=has_paths)
        if recipe.decoder is None:
            return
        tiny_decoder = decoder.fitting(
            recipe.decoder, teacher=teacher, latent_shape=teacher.latent_shape
        )
        if config is not None:
            try:
                bundle.check_networks(config, tiny_decoder, teacher.manifest)
            except ReleaseInvalid as error:
                raise RecipeRefused(
                    f"A student of {teacher.manifest.name} could not become a release: {error.detail}"
                ) from error
        for tuned in (recipe.regression, recipe.matching):
            if tuned is not None:
                perception.make(tuned.perception, teacher=teacher, decoder=tiny_decoder)
        matching = recipe.matching
        if matching is not None:
            teacher.scale_of(matching.guidance_scale, field="matching.guidance_scale")
            if matching.adversarial is not None:
                discriminator.make(matching.adversarial, teacher=teacher, seed=matching.seed)

    def _check_student(self) -> None:
        """Raise RecipeRefused unless the student to start from has the recipe's timesteps and this teacher."""
        manifest = releases.read(self._student_release())
        if manifest.kind != "student":
            raise RecipeRefused(f"{manifest.name} is a {manifest.kind}; start from a student.")
        own = self.teacher.manifest
        for field, here, there in (
            ("timesteps", list(self.recipe.timesteps), manifest.timesteps),
            ("teacher", own.name, manifest.parent),
            ("image_size", list(own.image_sizes[0]), list(manifest.image_sizes[0])),
        ):
            if here != there:
                raise RecipeRefused(
                    f"{field}: {manifest.name} has {there}, this run {here}. Start without a student."
                )

    def _student_release(self) -> Path:
        if self.inputs.student is None:
            raise RecipeRefused("structure is left out: give a student release to start from.")
        return self.inputs.student

    # --- the table --------------------------------------------------------------------------------
    def table(self) -> tuple[Stage, ...]:
        """Return the stages in order. Increase a stage's revision when a change of its code changes its result."""
        recipe, digests = self.recipe, self._digests
        made_from = (digests.teacher, digests.catalogue, digests.detector, *self._further_pairs())
        found = [Stage("pairs", Keyed(recipe.pairs, made_from), (), self._pairs, revision=3)]
        if recipe.is_warm:
            found.append(Stage(START, Keyed((), (digests.student,)), (), self._start))
        if recipe.decoder is not None:
            examples = self._examples(recipe.decoder)
            by = Keyed(recipe.decoder, examples) if examples else recipe.decoder
            train_it = partial(self._decoder, recipe.decoder)
            found.append(Stage("decoder", by, ("pairs",), train_it))
        if not recipe.is_warm:
            keyed = Keyed((recipe.student, recipe.structure), self._further_teachers())
            found.append(Stage("structure", keyed, ("pairs",), self._structure))
        before = START if recipe.is_warm else "structure"
        for name, part, train in (
            ("regression", recipe.regression, regression.train),
            ("matching", recipe.matching, dmd2.train),
            ("joint", recipe.joint, joint.train),
            ("quantise", recipe.quantise if recipe.weights == INT8 else None, quantise.train),
        ):
            if part is not None:
                found.append(self._tuning(name, part, train, before=before))
                before = name
        needs = tuple(dict.fromkeys((before, self._decoder_stage(before))))
        write = partial(self._bundle, before)
        found.append(Stage("bundle", Keyed((), (self.name,)), needs, write))
        return (*found, *self._accepting())

    def _tuning(self, name: str, part: Any, train: Train, *, before: str) -> Stage:
        """Return a stage that continues the training of the student of the stage `before`."""
        first = START if self.recipe.is_warm else "structure"
        needs = tuple(dict.fromkeys(("pairs", self._decoder_stage(before), first, before)))
        labels = self.recipe.labels if name == "joint" else None
        counted = (part, self.recipe.timesteps, *(() if labels is None else (labels,)))
        keyed = Keyed(counted, self._examples(part))
        return Stage(name, keyed, needs, partial(self._tune, name, part, train, before))

    def _accepting(self) -> tuple[Stage, ...]:
        """Return the stages that evaluate the bundle and complete the release."""
        recipe, digests, acceptance = self.recipe, self._digests, self._acceptance
        measured = replace(recipe.evaluation, margins=recipe.margins)
        judged = Keyed((measured, recipe.gate.variant), digests.judges)
        found = [Stage("evaluation", judged, ("bundle",), acceptance.evaluation)]
        compared: tuple[str, ...] = ("bundle", "evaluation")
        if acceptance.has_incumbent:
            # Fresh seeds belong to this run alone.
            of_run = (self.name,) if recipe.evaluation.fresh_seeds else ()
            replaced = (digests.teacher, digests.catalogue, digests.detector, digests.active)
            incumbent = Keyed(
                (measured, recipe.gate.variant), (*digests.judges, *replaced, *of_run)
            )
            found.append(Stage(INCUMBENT, incumbent, (), acceptance.incumbent))
            compared = (*compared, INCUMBENT)
        return (
            *found,
            Stage(GATE, Keyed(recipe.gate), compared, acceptance.gate),
            Stage(RELEASE, Keyed(()), ("bundle", "evaluation"), self._release),
        )

    def _decoder_stage(self, before: str) -> str:
        """Return the name of the stage whose decoder is used with the student of the stage `before`."""
        if self.recipe.joint is not None and before in ("joint", "quantise"):
            return "joint"
        return START if self.recipe.decoder is None else "decoder"

    def _examples(self, part: Any) -> tuple[str, ...]:
        """Return the digest of the accepted pictures if a stage with this recipe reads them, else nothing."""
        return self._digests.examples if _reads_examples(part) else ()

    def _further_teachers(self) -> tuple[str, ...]:
        """Return the digests of the teachers that a method of the structure stage adds."""
        if self.recipe.structure is None:
            return ()
        return tuple(digest(Path(folder)) for folder in self.recipe.structure.further_teachers)

    def build(
        self,
        root: Path,
        *,
        only: Collection[str] | None = None,
        on_stage: OnStage | None = None,
        progress_bar: bool = True,
    ) -> dict[str, Path]:
        """Build the table (`stages.build`), in one process or in several that `accelerate launch` started."""
        return stages.build(
            self.table(),
            root,
            only=only,
            on_stage=on_stage if processes.is_main() else None,
            progress_bar=progress_bar and processes.is_main(),
            leads=processes.is_main(),
            meet=processes.barrier,
        )

    # --- what the stages build --------------------------------------------------------------------
    def _pairs(self, context: Context) -> None:
        pairs.generate(
            self.recipe.pairs,
            teacher=self.teacher,
            catalogue=self.catalogue,
            detector=self._loaded.detector,
            folder=context.folder,
            store=context.folder.parent / self._store_of_pairs(),
            further=self._blocks,
            progress_bar=context.progress_bar,
        )

    @cached_property
    def _blocks(self) -> dict[int, int]:
        """Return the number of additional blocks of seeds of each hard variant, by row of the catalogue."""
        hard = catalogues.read_hard(self.inputs.catalogue)
        more = self.recipe.hard_weight - 1
        rows = enumerate(self.catalogue.slugs) if hard and more else ()
        return {row: more * hard[slug] for row, slug in rows if slug in hard}

    def _further_pairs(self) -> tuple[str, ...]:
        """Return the part of the pairs' key that the hard variants determine; empty if there are none."""
        return (json.dumps(self._blocks),) if self._blocks else ()

    def _store_of_pairs(self) -> Path:
        """Return the folder of all catalogues' pairs with this recipe, teacher and detector, relative to the root."""
        keyed = Keyed(self.recipe.pairs, (self._digests.teacher, self._digests.detector))
        return Path(PAIRS) / stages.key_of(keyed)

    def files_of_pairs(self) -> list[Path]:
        """Return the files of the catalogue's variants, relative to the root, whether or not they exist."""
        store = self._store_of_pairs()
        return [path for _, path in pairs.files(self.catalogue, store, self._blocks)]

    def _start(self, context: Context) -> None:
        """Write the student release's networks, fp32."""
        release = self._student_release()
        unet = unpacking.unet(release / "unet", releases.read(release).timesteps)
        networks.save(unet, context.folder / "unet")
        networks.save(unpacking.decoder(release / "vae"), context.folder / "vae")

    def _decoder(self, recipe: decoder.DecoderRecipe, context: Context) -> None:
        inputs = self._loaded.for_stage(context, only_accepted=False)
        decoder.train(recipe, replace(inputs, real_images=self._real_images(recipe)))

    def _structure(self, context: Context) -> None:
        student_recipe, recipe = context.recipe.recipe
        structure.train(
            recipe, self._loaded.for_stage(context, with_path=True), student_recipe=student_recipe
        )

    def _tune(self, name: str, part: Any, train: Train, before: str, context: Context) -> None:
        loaded = self._loaded
        # Quantisation changes nothing visible.
        common = loaded.for_stage(
            context,
            shows_samples=name != "quantise",
            with_path=name == "regression" and len(self.recipe.timesteps) > 1,
        )
        inputs = TuningInputs(
            **vars(common),
            student=loaded.unet(context.needs[before]),
            decoder=loaded.decoder(context.needs[self._decoder_stage(before)]),
            timesteps=self.recipe.timesteps,
        )
        inputs = replace(inputs, real_images=self._real_images(part))
        if isinstance(part, MatchingRecipe) and part.needs_structure:
            inputs = replace(inputs, structure=loaded.unet(context.needs["structure"]))
        if name == "joint":
            inputs = replace(inputs, labels=self._labels())
        train(part, inputs)

    def _labels(self) -> Labels | None:
        detector = self._loaded.detector
        if self.recipe.labels is None or detector is None:
            return None
        return Labels(self.recipe.labels, detector)

    def _real_images(self, part: Any) -> real_images.RealImages | None:
        """Return the accepted pictures as the stage with this recipe needs them."""
        if not _reads_examples(part):
            return None
        folder, catalogue = self.inputs.catalogue, self.catalogue
        if isinstance(part, MatchingRecipe):
            return real_images.read_latents(folder, teacher=self.teacher, catalogue=catalogue)
        return real_images.read_pictures(folder, catalogue=catalogue)

    def _bundle(self, last: str, context: Context) -> None:
        """Write the release without an evaluation. last: the stage whose student is written."""
        if not processes.is_main():
            return
        drawing = context.needs[self._decoder_stage(last)]
        bundle.write(
            context.folder / RELEASE,
            unet=networks.load(UNet2DConditionModel, context.needs[last] / "unet"),
            decoder=networks.load(AutoencoderTiny, drawing / "vae"),
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
            is_quantised=self.recipe.weights == INT8,
        )

    def _release(self, context: Context) -> None:
        """Copy the bundle, with the evaluation in its manifest."""
        if not processes.is_main():
            return
        summary = json.loads((context.needs["evaluation"] / SUMMARY).read_text("utf-8"))

        def make(folder: Path) -> None:
            shutil.copytree(context.needs["bundle"] / RELEASE, folder)
            releases.write(folder, replace(releases.read(folder), evaluation=summary))

        atomic.make_folder(context.folder / RELEASE, make)


def _reads_examples(part: Any) -> bool:
    """Return whether a stage with this recipe trains a discriminator by accepted pictures."""
    name = "adversarial" if isinstance(part, MatchingRecipe) else "patches"
    found: AdversarialRecipe | PatchesRecipe | None = getattr(part, name, None)
    return found is not None and found.field_share > 0
