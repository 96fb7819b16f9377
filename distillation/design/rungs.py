"""Rungs of a candidate: short distillations, each of which goes on with the student of the one before, and its judging.

The first rung is the recipe with a share of its steps: decoder, structure, regression, joint. Each further one trains
student and decoder on jointly from the release that the rung before wrote, as a redistillation does, in a cosine of its
own. So a rung ends with a rate of zero and is judged fairly, wherever the candidate stops.
"""

import time
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any, TypeVar

from distillation.design import space as spaces
from distillation.design.candidates import Candidate, Judged
from distillation.design.halving import SHARES
from distillation.design.space import Space
from distillation.evaluation import noninferiority, pictures, scoring
from distillation.evaluation.noninferiority import Margins
from distillation.evaluation.pictures import Album
from distillation.evaluation.prompts import SEEDS_EACH, Seeds, seeds_of
from distillation.evaluation.report import sheets
from distillation.evaluation.scoring import Judges
from distillation.pipeline import recipes
from distillation.pipeline.acceptance import PICTURES, RELEASE
from distillation.pipeline.inputs import Digests, Inputs, Loaded
from distillation.pipeline.recipes import Recipe
from distillation.pipeline.stages import Chain
from distillation.resumable import atomic
from distillation.training.errors import RecipeRefused

JUDGED = 256  # pictures in the first rung, twice and four times as many in the further ones
MOST_TIMES = 4
MOST_EACH = 8  # of a prompt in the first rung
SKIPPED = SEEDS_EACH // 2  # seeds: evaluations and the gate have those before
MOST_PICTURES = 2048  # of the VAE, for a training: a short one sees few of them
FEWEST_SEEDS = 4  # of a variant
QUANTISED = 8  # pictures that measure the rounding
Timed = TypeVar("Timed", bound=Any)


@dataclass(frozen=True)
class Ladder:
    """What all candidates of a design share: inputs, the space, and the folder of their stages."""

    space: Space
    inputs: Inputs
    loaded: Loaded
    root: Path
    sheets: Path  # folder of the picture sheets
    name: str  # of the design, with which the names of its students begin

    def train(self, candidate: Candidate, rung: int) -> Path:
        """Train for the rung, going on where an interrupted training stopped; return the student's release folder.

        Raises TrainingError, StageError, SliceOver.
        """
        recipe = short(self.space.recipe_of(candidate.params), SHARES[0])
        inputs = self.inputs
        if rung:
            full = self.space.recipe_of(candidate.params)
            recipe = longer(recipe, full, SHARES[rung] - SHARES[rung - 1])
            inputs = replace(inputs, student=self.root / candidate.rungs[rung - 1].folder)
        name = f"{self.name}-{candidate.number}-{rung}"
        chain = Chain(recipe, inputs, name=name, loaded=self.loaded)
        made = chain.build(self.root, only={"bundle"}, progress_bar=False)
        return made["bundle"] / RELEASE

    def judge(self, candidate: Candidate, rung: int) -> Judged:
        """Train for the rung if that is not done, and judge the pictures of held-out seeds."""
        began = time.monotonic()
        release = self.train(candidate, rung)
        found = self.judge_release(release, rung, title=f"candidate {candidate.number}")
        return replace(found, seconds=round(time.monotonic() - began, 1))

    def judge_release(self, release: Path, rung: int, *, title: str) -> Judged:
        """Judge a release on the held-out seeds of a rung, and write its sheet. Raises RecipeRefused."""
        prompts = self.loaded.catalogue
        seeds = self.seeds(rung)
        student, teacher = (self._album(folder, seeds) for folder in (release, self.inputs.teacher))
        scores = scoring.judge(student, teacher, prompts, self._judges, progress_bar=False)
        verdicts = noninferiority.judge(Margins(), right=scores.right)
        [verdict] = [each for each in verdicts if each.measure == "attributes_right"]
        if verdict.estimate is None or verdict.low is None or verdict.high is None:
            raise RecipeRefused(
                "The detector finds none of the teacher's pictures right, so no quality can be measured. Check that "
                "it was trained on pictures like the teacher's and that the variants' tags are its bits."
            )
        right = scores.right
        shown = sheets.chosen(len(prompts), ())
        rows = sheets.rows(
            {"teacher": teacher, title: student},
            prompts.texts,
            numbers=shown,
            right=None if right is None else {title: right[0], "teacher": right[1]},
        )
        self.sheets.mkdir(parents=True, exist_ok=True)
        atomic.make_file(
            self.sheets / f"{_slug(title)}.webp", lambda path: sheets.write(path, rows)
        )
        return Judged(
            rung=rung,
            share=SHARES[rung],
            quality=round(verdict.estimate, 5),
            low=round(verdict.low, 5),
            high=round(verdict.high, 5),
            distance=round(float(scores.distance.mean()), 5),
            pictures=len(prompts) * len(seeds[0]),
            seconds=0.0,
            folder=str(release.relative_to(self.root)) if release.is_relative_to(self.root) else "",
        )

    def seeds(self, rung: int) -> Seeds:
        """Return the seeds of a rung: of no pair and of no evaluation, and those of the rungs before among them."""
        slugs = self.loaded.catalogue.slugs
        each = max(1, min(MOST_EACH, ceil(JUDGED / len(slugs))))
        return seeds_of(slugs, each=each * min(2**rung, MOST_TIMES), skip=SKIPPED)

    def prepare(self) -> None:
        """Make the pairs, and the teacher's pictures of the first rung, which all candidates share."""
        recipe = short(self.space.recipe, SHARES[0])
        chain = Chain(recipe, self.inputs, name=self.name, loaded=self.loaded)
        chain.build(self.root, only={"pairs"}, progress_bar=False)
        self._album(self.inputs.teacher, self.seeds(0))

    def _album(self, release: Path, seeds: Seeds) -> Album:
        return pictures.make(
            release,
            self.loaded.catalogue,
            seeds,
            cache=self.root / PICTURES,
            title="pictures",
            progress_bar=False,
        )

    @cached_property
    def _judges(self) -> Judges:
        detector = self.loaded.detector
        if detector is None:
            raise RecipeRefused(NO_DETECTOR)
        return Judges(detector)


NO_DETECTOR = (
    "No detector judges the pictures, so the quality of candidates would be unknown. Give one (--detector), or "
    "activate a version that fits the teacher."
)


def ladder(recipe: Recipe, inputs: Inputs, *, root: Path, sheets: Path, name: str) -> Ladder:
    """Return the ladder of a design. Raises TrainingError where recipe, teacher and judges do not fit."""
    if inputs.detector is None:
        raise RecipeRefused(NO_DETECTOR)
    loaded = Loaded(inputs, drawn=root / "drawn" / Digests.of(inputs).teacher[:16])
    recipe.check(loaded.teacher)
    if loaded.catalogue.stated is None or not bool(loaded.catalogue.stated.any()):
        raise RecipeRefused(
            "The prompt variants state nothing that the detector knows. Tag them with its bits."
        )
    pairs = replace(recipe.pairs, seeds_per_variant=_seeds(recipe.pairs.seeds_per_variant))
    space = spaces.of(replace(recipe, pairs=pairs), loaded.teacher)
    return Ladder(space, inputs, loaded, root, sheets, name)


def _seeds(count: int) -> int:
    """Return how many pairs of a variant a design makes: a third of the recipe's, which trains three times as long."""
    return min(count, max(FEWEST_SEEDS, count // 3))


# --- recipes of rungs -----------------------------------------------------------------------------
def short(recipe: Recipe, share: float) -> Recipe:
    """Return the recipe with a share of the steps of all its trainings, without what only a release needs."""
    return replace(
        recipe,
        decoder=None if recipe.decoder is None else _fewer(recipe.decoder, share),
        structure=None if recipe.structure is None else _fewer(recipe.structure, share),
        regression=None if recipe.regression is None else _fewer(recipe.regression, share),
        joint=None if recipe.joint is None else _fewer(recipe.joint, share),
        matching=None,
        quantise=replace(recipe.quantise, steps=0, measured=QUANTISED),
        evaluation=replace(recipe.evaluation, speed=None),
    )


def longer(recipe: Recipe, full: Recipe, share: float) -> Recipe:
    """Return a recipe that trains a student on, jointly: a share of the steps of the full recipe's three trainings."""
    parts = (full.structure, full.regression, full.joint)
    steps = sum(part.steps for part in parts if part is not None)
    joint = recipe.again or recipe.joint
    if joint is None:
        raise RecipeRefused("joint is left out, so no student can be trained on. Set it.")
    again = _steps(joint, max(2, round(share * steps)))
    return recipes.warm(replace(recipe, again=again))


def _fewer(part: Timed, share: float) -> Timed:
    return _steps(part, max(2, round(share * part.steps)))


def _steps(part: Timed, steps: int) -> Timed:
    """Return the recipe of a training with so many steps, a tenth of them to warm up, and the pictures it can use."""
    fields: dict[str, Any] = {"steps": steps, "warmup": min(part.warmup, steps // 10)}
    if hasattr(part, "pictures"):
        fields["pictures"] = min(part.pictures, MOST_PICTURES)
    return replace(part, **fields)


def _slug(title: str) -> str:
    return title.replace(" ", "-")
