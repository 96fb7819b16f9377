"""Stages `evaluation`, `incumbent` and `gate`: measure the student and the release to be replaced, and decide."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

from distillation.evaluation import clip, measured, pictures, results
from distillation.evaluation import gate as gates
from distillation.evaluation import run as evaluations
from distillation.evaluation.gate import Costs
from distillation.evaluation.gate_recipe import GateRecipe
from distillation.evaluation.pictures import Album
from distillation.evaluation.prompts import Prompts
from distillation.evaluation.report import sheets
from distillation.evaluation.results import Evaluation
from distillation.evaluation.seeds import seeds_of
from distillation.pipeline.inputs import Inputs, new_rows
from distillation.pipeline.recipes import Recipe
from distillation.resumable import atomic
from distillation.resumable.stages import Context
from distillation.trainers.catalogue import Catalogue
from distillation.training import processes
from distillation.training.errors import RecipeRefused
from generation.engine import device as devices
from generation.engine import release as releases
from generation.engine.errors import EngineError

RELEASE = "release"  # the last stage, and the folder of a release in a stage's
SUMMARY = "summary.json"
INCUMBENT, GATE = "incumbent", "gate"  # stages
GATE_FILE = "gate.json"
PICTURES = "pictures"  # of the seeds that all evaluations share: the teacher's are made once
COMPARED, COMPARED_SEEDS = "compared.webp", 2


class Acceptance:
    """Build functions of these stages, for the student in the folder of the stage `bundle`."""

    def __init__(
        self, recipe: Recipe, catalogue: Catalogue, inputs: Inputs, *, name: Callable[[], str]
    ) -> None:
        """name: returns the name of the release, from which fresh seeds are derived."""
        self._recipe, self._catalogue, self._inputs = recipe, catalogue, inputs
        self._name = name
        self._active = inputs.active

    @cached_property
    def has_incumbent(self) -> bool:
        """Return whether the release to be replaced can be compared: same encoder and size, and common variants."""
        if self._active is None:
            return False
        manifest, size = releases.read(self._active), self._recipe.image_size
        return (
            manifest.encoder_fingerprint == self._catalogue.encoder_fingerprint
            and tuple(manifest.image_sizes[0]) == (size, size)
            and bool(self._covered)
        )

    def check(self) -> None:
        """Raise RecipeRefused for a CLIP, pictures or a device that the evaluation cannot use."""
        inputs, speed = self._inputs, self._recipe.evaluation.speed
        try:
            if inputs.clip is not None:
                clip.load(inputs.clip, tokenizer=inputs.teacher / "tokenizer")
            if inputs.real is not None:
                for path in pictures.image_files(inputs.real):
                    pictures.size_of(path)
            if speed is not None:
                devices.choose(speed.device)
        except (OSError, ValueError) as error:
            raise RecipeRefused(f"The evaluation would fail: {error}") from error
        except EngineError as error:
            raise RecipeRefused(f"evaluation.speed.device: {error.detail}") from error

    def evaluation(self, context: Context) -> None:
        """Measure the student against the teacher, on all variants."""
        if not processes.is_main():
            return
        release = context.needs["bundle"] / RELEASE
        evaluation = self._evaluated(release, self._catalogue, context.folder, context)
        summary = json.dumps(results.summary(evaluation), indent=2, allow_nan=False)
        atomic.write_file(context.folder / SUMMARY, summary + "\n")

    def incumbent(self, context: Context) -> None:
        """Measure the active release against the teacher, on the prompts that it covers."""
        if processes.is_main() and self._active is not None:
            self._evaluated(self._active, self._of_active, context.folder, context)

    def gate(self, context: Context) -> None:
        """Decide whether the student may replace the active release; write the decision with its reasons."""
        if not processes.is_main():
            return
        recipe: GateRecipe = context.recipe.recipe
        folder = context.needs["evaluation"]
        candidate, teacher = (measured.read(folder, side) for side in ("student", "teacher"))
        active = active_costs = None
        if INCUMBENT in context.needs and self._active is not None:
            self._compare(self._active, context)
            active = measured.read(context.needs[INCUMBENT], "student")
            active_costs = _costs(context.needs[INCUMBENT])
        suspected = gates.suspects(recipe, candidate, teacher, active)
        found = gates.decide(
            recipe,
            candidate,
            teacher,
            active,
            margins=self._recipe.margins,
            costs=_costs(folder),
            active_costs=active_costs,
            again=self._measured_again(context, recipe, tuple(suspected)),
        )
        text = json.dumps(asdict(found), indent=2, allow_nan=False)
        atomic.write_file(context.folder / GATE_FILE, text + "\n")
        # No other run uses these seeds.
        shutil.rmtree(self._fresh_pictures(context), ignore_errors=True)

    def _fresh_pictures(self, context: Context) -> Path:
        """Return the folder of the pictures of fresh seeds. It is hidden, so that cleaning removes an abandoned one."""
        return context.folder.parent / f".fresh-{self._name()}"

    def _compare(self, active: Path, context: Context) -> None:
        """Write a sheet of all three releases, of pictures that the two evaluations have made; new prompts first."""
        slugs = self._catalogue.slugs
        shown = sheets.chosen(len(slugs), new_rows(self._catalogue, active))
        covered = set(self._covered)
        rows: list[sheets.Row] = []
        for is_new in (True, False):
            found = [slugs[row] for row in shown if (slugs[row] not in covered) == is_new]
            if not found:
                continue
            prompts = self._catalogue.of(found)
            albums = {
                "teacher": self._pictures("teacher", self._inputs.teacher, prompts, context),
                "active": None if is_new else self._pictures("active", active, prompts, context),
                "candidate": self._pictures(
                    "candidate", context.needs["bundle"] / RELEASE, prompts, context
                ),
            }
            numbers = range(len(prompts))
            rows += sheets.rows(
                albums, prompts.texts, numbers=numbers, new=numbers if is_new else ()
            )
        atomic.make_file(context.folder / COMPARED, lambda path: sheets.write(path, rows))

    def _pictures(self, name: str, release: Path, prompts: Prompts, context: Context) -> Album:
        each = min(COMPARED_SEEDS, self._recipe.evaluation.seeds_per_variant)
        return pictures.make(
            release,
            prompts,
            seeds_of(prompts.slugs, each=each),
            cache=context.folder.parent / PICTURES,
            title=f"pictures of the {name}",
            progress_bar=context.progress_bar,
        )

    def _measured_again(
        self, context: Context, recipe: GateRecipe, suspected: tuple[str, ...]
    ) -> dict[str, float]:
        """Return the changes of these variants by slug, measured with seeds that selected nothing."""
        if not suspected:
            return {}
        release = context.needs["bundle"] / RELEASE
        folder = context.folder / "again"
        evaluation = self._recipe.evaluation
        skip = evaluation.fresh_seeds or evaluation.seeds_per_variant
        options = {"each": recipe.second_look, "skip": skip}
        prompts = self._catalogue.of(suspected)
        self._evaluated(release, prompts, folder, context, is_timed=False, **options)
        ours = measured.read(folder, "student")
        found = gates.changes(ours, measured.read(folder, "teacher"))
        covered = [slug for slug in suspected if slug in self._covered]
        if self.has_incumbent and self._active is not None and covered:
            folder = context.folder / "again-active"
            prompts = self._catalogue.of(covered)
            self._evaluated(self._active, prompts, folder, context, is_timed=False, **options)
            found |= gates.changes(ours, measured.read(folder, "student"))
        return found

    @cached_property
    def _of_active(self) -> Prompts:
        """Return the prompts that the release to be replaced covers as well."""
        return self._catalogue.of(self._covered)

    def _evaluated(
        self,
        release: Path,
        prompts: Prompts,
        folder: Path,
        context: Context,
        *,
        each: int | None = None,
        skip: int = 0,
        is_timed: bool = True,
    ) -> Evaluation:
        """Evaluate a release on fresh seeds and on the core. each: number of seeds of a second look, without a core."""
        recipe = self._recipe.evaluation
        core = seeds_of(prompts.slugs, each=recipe.seeds_per_variant)
        album, seeds, run = context.folder.parent / PICTURES, core, ""
        cache = album
        if recipe.fresh_seeds:
            run, cache = self._name(), self._fresh_pictures(context)
        if recipe.fresh_seeds or each:
            count = each or recipe.fresh_seeds
            seeds = seeds_of(prompts.slugs, each=count, skip=skip, run=run)
        inputs = evaluations.Inputs(
            release,
            self._inputs.teacher,
            prompts,
            seeds,
            folder,
            detector=self._inputs.detector,
            clip_name=self._inputs.clip,
            tokenizer=self._inputs.teacher / "tokenizer",
            real_pictures=self._inputs.real,
            margins=self._recipe.margins,
            each_prompt=self._recipe.gate.variant,
            speed=recipe.speed if is_timed else None,
            cache=cache,
            fresh_from=run,
            core=core if run and not each else None,
            core_cache=album,
            new=tuple(prompts.slugs[row] for row in new_rows(prompts, self._active)),
        )
        return evaluations.evaluate(inputs, progress_bar=context.progress_bar)

    @cached_property
    def _covered(self) -> list[str]:
        """Return the slugs of the prompts that the release to be replaced covers with their present texts."""
        if self._active is None:
            return []
        new = set(new_rows(self._catalogue, self._active))
        return [slug for row, slug in enumerate(self._catalogue.slugs) if row not in new]


def _costs(folder: Path) -> Costs:
    """Return the costs of an evaluation's student."""
    side = json.loads((folder / "evaluation.json").read_text("utf-8"))["student"]
    size_bytes, speed = sum(side["bytes_on_disk"].values()), side["speed"]
    if not speed:
        return Costs(None, size_bytes)
    return Costs(speed["seconds"]["total"]["median"], size_bytes, speed["memory"]["peak"])
