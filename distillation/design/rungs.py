"""Rungs of a candidate: short distillations, each continuing from the previous rung's student, and their evaluation.

The first rung is the recipe with a share of its steps: decoder, structure, regression, joint. Each later one continues
to train student and decoder jointly from the release of the previous rung, as a redistillation does, with a cosine
schedule of its own. So every rung ends with a learning rate of zero, and candidates of one rung are comparable.
"""

import time
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from distillation.design import space as spaces
from distillation.design.candidates import Candidate, Judged
from distillation.design.halving import SHARES
from distillation.design.space import Space
from distillation.evaluation import noninferiority, pictures, scoring
from distillation.evaluation.noninferiority import Margins
from distillation.evaluation.pictures import Album
from distillation.evaluation.report import sheets
from distillation.evaluation.scoring import Judges
from distillation.evaluation.seeds import SEEDS_EACH, Seeds, seeds_of
from distillation.pipeline import recipes
from distillation.pipeline.acceptance import PICTURES, RELEASE
from distillation.pipeline.inputs import Digests, Inputs, Loaded
from distillation.pipeline.recipes import Recipe
from distillation.pipeline.stages import Chain
from distillation.resumable import atomic
from distillation.training.errors import RecipeRefused

JUDGED = 256  # pictures in the first rung, twice and four times as many in the further ones
MAX_TIMES = 4
MAX_EACH = 8  # pictures of a prompt in the first rung
SKIPPED = SEEDS_EACH // 2  # seeds of a variant that evaluations and the gate use
MAX_PICTURES = 2048  # decoded by the VAE for one training, which is short and uses few
MIN_SEEDS = 4  # of a variant
QUANTISED = 8  # pictures on which the error of quantisation is measured
Timed = TypeVar("Timed", bound=Any)


@dataclass(frozen=True)
class Ladder:
    """Training and evaluation of a design's candidates, with their shared inputs, space and folder of stages."""

    space: Space
    inputs: Inputs
    loaded: Loaded
    root: Path
    sheets: Path  # folder of the picture sheets
    name: str  # of the design, with which the names of its students begin

    def train(self, candidate: Candidate, rung: int) -> Path:
        """Train for the rung, resuming an interrupted training, and return the folder of the student's release.

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
        """Train for the rung if that is not done yet, judge pictures of held-out seeds, and return the result."""
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
            right=() if right is None else _counts(right[0]),
            each=len(seeds[0]),
        )

    def seeds(self, rung: int) -> Seeds:
        """Return the seeds of a rung. Pairs and evaluations use other ones; earlier rungs use a subset of them."""
        slugs = self.loaded.catalogue.slugs
        each = max(1, min(MAX_EACH, ceil(JUDGED / len(slugs))))
        return seeds_of(slugs, each=each * min(2**rung, MAX_TIMES), skip=SKIPPED)

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
            "No tag of the prompt variants is a bit of the detector. Tag them with its bits."
        )
    pairs = replace(recipe.pairs, seeds_per_variant=_seeds(recipe.pairs.seeds_per_variant))
    space = spaces.of(replace(recipe, pairs=pairs), loaded.teacher)
    return Ladder(space, inputs, loaded, root, sheets, name)


def _seeds(count: int) -> int:
    """Return the number of pairs per variant in a design: a third of the recipe's `count`, at least MIN_SEEDS."""
    return min(count, max(MIN_SEEDS, count // 3))


# --- recipes of rungs -----------------------------------------------------------------------------
def short(recipe: Recipe, share: float) -> Recipe:
    """Return the recipe with a share of the steps of each training, without the parts that only a release needs."""
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
    """Return a recipe that continues a student's joint training, for a share of the full recipe's steps."""
    parts = (full.structure, full.regression, full.joint)
    steps = sum(part.steps for part in parts if part is not None)
    joint = recipe.again or recipe.joint
    if joint is None:
        raise RecipeRefused("joint is left out, so no student can be trained further. Set it.")
    again = _steps(joint, max(2, round(share * steps)))
    return recipes.warm(replace(recipe, again=again))


def _fewer(part: Timed, share: float) -> Timed:
    return _steps(part, max(2, round(share * part.steps)))


def _steps(part: Timed, steps: int) -> Timed:
    """Return the training's recipe with this number of steps, at most a tenth for warm-up, and fewer pictures."""
    fields: dict[str, Any] = {"steps": steps, "warmup": min(part.warmup, steps // 10)}
    if hasattr(part, "pictures"):
        fields["pictures"] = min(part.pictures, MAX_PICTURES)
    return replace(part, **fields)


def _counts(right: Tensor) -> tuple[int, ...]:
    """Return the number of right pictures of each prompt that states something. right: 0, 1 or NaN, [P, S]."""
    return tuple(int(row.sum()) for row in right if bool(row.isfinite().all()))


def _slug(title: str) -> str:
    return title.replace(" ", "-")
