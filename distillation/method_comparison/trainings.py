"""Trainings of a comparison: each method's settings are tried once, then the best one is trained with every seed.

Each training is the chain of `manage.py distill` up to the evaluation, in the same folders: equal stages, such as pairs
and decoder, are made once, and an interrupted comparison can be resumed.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distillation.design import rungs
from distillation.evaluation import pictures
from distillation.evaluation.pictures import Album
from distillation.evaluation.seeds import seeds_of
from distillation.method_comparison.calibration import Calibration
from distillation.method_comparison.settings import label
from distillation.pipeline.acceptance import RELEASE
from distillation.pipeline.inputs import Digests, Inputs, Keyed, Loaded
from distillation.pipeline.recipes import EvaluationRecipe, Recipe
from distillation.pipeline.stages import Chain
from distillation.resumable import stages
from distillation.resumable.stages import Context, Status
from distillation.trainers.inputs import StageInputs
from distillation.trainers.objectives.bayes import BayesRecipe
from distillation.trainers.objectives.methods import MethodRecipe
from distillation.trainers.structure import StructureRecipe
from distillation.training.errors import RecipeRefused

EVALUATION = "evaluation"
TRIAL_SEED = 0  # of trainings that choose a setting; the others have 1, 2, …
CALIBRATION = "calibration.json"
Show = Callable[[int, int, str], None]  # (done, total, present activity)


@dataclass(frozen=True)
class Training:
    """A training and its results. right: share of right pictures by prompt, [P], NaN where a prompt states nothing;
    distance: of its pictures to the teacher's, by prompt, [P]; folders: of its stages, by name.
    """

    method: str
    setting: MethodRecipe
    seed: int
    steps: int
    right: Tensor
    right_of_teacher: Tensor
    distance: Tensor
    folders: Mapping[str, Path]

    @property
    def score(self) -> float:
        """Return the value that ranks the settings of a method, as in a design (`design.candidates.Judged`)."""
        return float(self.right.nanmean() - self.distance.mean())


@dataclass(frozen=True)
class Outcome:
    """trials: of methods that have a weight; finals: by method, of the seeds from 1."""

    trials: tuple[Training, ...]
    finals: Mapping[str, tuple[Training, ...]]


@dataclass(frozen=True)
class Comparison:
    """A comparison of methods. minutes: of the stage structure, for each training; share: of the recipe's steps that
    the other stages make; root: folder of the stages; reports: parent of the folder of the results.
    """

    recipe: Recipe
    inputs: Inputs
    root: Path
    reports: Path
    minutes: float
    share: float

    def __post_init__(self) -> None:
        if self.recipe.structure is None:
            raise RecipeRefused(f"structure: the recipe {self.recipe.name} leaves it out. Set it.")
        if not 0 < self.minutes < inf:
            raise RecipeRefused(f"minutes must be above 0 and finite, not {self.minutes:g}.")
        if not 0 < self.share <= 1:
            raise RecipeRefused(f"share must be above 0 and at most 1, not {self.share:g}.")
        if self.inputs.detector is None:
            raise RecipeRefused(rungs.NO_DETECTOR)

    @cached_property
    def name(self) -> str:
        """Return the name of the comparison, which does not depend on the methods, trials and seeds."""
        digests = Digests.of(self.inputs)
        made_from = (digests.teacher, digests.catalogue, digests.detector)
        return f"methods-{stages.key_of(Keyed((self.recipe, self.minutes, self.share), made_from))[:8]}"

    @property
    def folder(self) -> Path:
        return self.reports / self.name

    @cached_property
    def loaded(self) -> Loaded:
        return Loaded(self.inputs)

    def run(
        self,
        methods: Mapping[str, Sequence[MethodRecipe]],
        *,
        seeds: int,
        show: Show,
        after_seed: Callable[[Outcome], None],
    ) -> Outcome:
        """Run all trainings and return the outcome; call `after_seed` with it after each seed of all methods.

        Raises TrainingError, StageError.
        """
        for settings in methods.values():
            self._chain(self._structure(settings[0]), "check").check()
        tried = {name: settings for name, settings in methods.items() if len(settings) > 1}
        total = sum(map(len, tried.values())) + seeds * len(methods)
        done = 0
        # First of all: settings that cannot be trained in the minutes are refused before hours are spent.
        for name, settings in methods.items():
            for setting in settings:
                show(done, total, f"time of a step: {name}, {label(name, setting)}".rstrip(", "))
                self._steps(self._structure(setting))

        def made(method: str, setting: MethodRecipe, seed: int) -> Training:
            nonlocal done
            what = ", ".join(filter(None, (method, label(method, setting), f"seed {seed}")))
            found = self._train(
                method, setting, seed, lambda stage: show(done, total, f"{what}: {stage}")
            )
            done += 1
            return found

        trials: list[Training] = []
        best = {name: settings[0] for name, settings in methods.items()}
        for name, settings in tried.items():
            found = [made(name, setting, TRIAL_SEED) for setting in settings]
            best[name] = max(found, key=lambda training: training.score).setting
            trials += found
        finals: dict[str, list[Training]] = {name: [] for name in methods}
        outcome = Outcome(tuple(trials), {})
        for seed in range(1, seeds + 1):
            for name in methods:
                finals[name].append(made(name, best[name], seed))
            outcome = replace(
                outcome, finals={name: tuple(found) for name, found in finals.items()}
            )
            after_seed(outcome)
        show(done, total, "done")
        return outcome

    # --- one training -----------------------------------------------------------------------------
    def _train(
        self, method: str, setting: MethodRecipe, seed: int, show: Callable[[str], None]
    ) -> Training:
        structure = self._structure(setting)
        steps = self._steps(structure)
        structure = replace(structure, steps=steps, warmup=min(structure.warmup, steps // 10))
        chain = self._chain(
            replace(structure, seed=seed), "trial" if seed == TRIAL_SEED else "final"
        )

        def on_stage(status: Status) -> None:
            if status.state != "finished":
                show(status.name)

        folders = chain.build(self.root, only={EVALUATION}, on_stage=on_stage, progress_bar=False)
        return _judged(method, setting, seed, steps, folders)

    def _structure(self, setting: MethodRecipe) -> StructureRecipe:
        recipe = self.recipe.structure
        if recipe is None:
            raise RecipeRefused("structure: the recipe leaves it out. Set it.")
        # Weight decay is a prior around zero and contradicts that of `bayes`.
        decay = recipe.weight_decay or StructureRecipe.weight_decay
        is_bayes = isinstance(setting, BayesRecipe)
        return replace(recipe, objective=setting, weight_decay=0.0 if is_bayes else decay)

    def album_of(self, training: Training) -> tuple[Album, Album]:
        """Return the pictures that judged a release of the last trainings, and the teacher's."""
        fresh = self._evaluation.fresh_seeds
        prompts, name = self.loaded.catalogue, f"{self.name}-final"
        seeds = seeds_of(prompts.slugs, each=fresh, run=name)

        def album(release: Path) -> Album:
            cache = self.root / f".fresh-{name}"
            return pictures.make(
                release, prompts, seeds, cache=cache, title="pictures", progress_bar=False
            )

        return album(training.folders["bundle"] / RELEASE), album(self.inputs.teacher)

    @property
    def _evaluation(self) -> EvaluationRecipe:
        """Return the recipe with fresh seeds, the same for all methods: they derive from the comparison's name."""
        recipe = self.recipe.evaluation
        fresh = recipe.fresh_seeds or recipe.seeds_per_variant
        return replace(recipe, seeds_per_variant=1, fresh_seeds=fresh, speed=None)

    def _chain(self, structure: StructureRecipe, part: str) -> Chain:
        """Return the chain of a training. part: of the name, from which the seeds of its pictures are derived."""
        recipe = rungs.short(self.recipe, self.share) if self.share < 1 else self.recipe
        varied: dict[str, Any] = {
            name: replace(stage, seed=structure.seed)
            for name in ("regression", "matching", "joint")
            if (stage := getattr(recipe, name)) is not None
        }
        recipe = replace(recipe, structure=structure, evaluation=self._evaluation, **varied)
        return Chain(recipe, self.inputs, name=f"{self.name}-{part}", loaded=self.loaded)

    def _steps(self, structure: StructureRecipe) -> int:
        """Return the number of steps that fit into the minutes."""

        def inputs() -> StageInputs:
            chain = self._chain(structure, "trial")
            made = chain.build(self.root, only={"pairs"}, progress_bar=False)
            context = Context(self.folder, made, None, progress_bar=False)
            return self.loaded.for_stage(context, shows_samples=False, with_path=True)

        calibration = Calibration(self.folder / CALIBRATION)
        pace = calibration.pace(structure, inputs, student_recipe=self.recipe.student)
        return pace.steps(60 * self.minutes)


def _judged(
    method: str, setting: MethodRecipe, seed: int, steps: int, folders: Mapping[str, Path]
) -> Training:
    text = (folders[EVALUATION] / "evaluation.json").read_text("utf-8")
    prompts = json.loads(text)["per_prompt"]

    def right(side: str) -> Tensor:
        values = [prompt["right"][side] if prompt["right"] else None for prompt in prompts]
        found = torch.tensor([float("nan") if value is None else value for value in values])
        if found.isnan().all():
            raise RecipeRefused(
                "No tag of the prompt variants is a bit of the detector. Tag them with its bits."
            )
        return found

    distance = torch.tensor([prompt["distance"] for prompt in prompts])
    return Training(
        method, setting, seed, steps, right("student"), right("teacher"), distance, folders
    )
