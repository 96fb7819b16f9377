"""Table of recipes: all hyper-parameters of a student.

A run takes one by its name, and may change single fields (`overrides`).
"""

from dataclasses import dataclass, field, replace
from itertools import pairwise

from distillation.evaluation.gate_recipe import GateRecipe
from distillation.evaluation.latency import SpeedRecipe
from distillation.evaluation.noninferiority import Margins
from distillation.evaluation.seeds import SEEDS_EACH
from distillation.pipeline.summaries import SUMMARIES
from distillation.trainers import rollout
from distillation.trainers.decoder import DecoderRecipe
from distillation.trainers.dmd2.recipe import MatchingRecipe
from distillation.trainers.joint import JointRecipe
from distillation.trainers.labels import LabelsRecipe
from distillation.trainers.objectives.bayes import BayesRecipe
from distillation.trainers.objectives.ensemble import EnsembleRecipe
from distillation.trainers.objectives.hinton import HintonRecipe
from distillation.trainers.objectives.methods import MethodRecipe
from distillation.trainers.objectives.mmd import MmdRecipe
from distillation.trainers.pairs import PairsRecipe
from distillation.trainers.patches import PatchesRecipe
from distillation.trainers.quantise import QuantiseRecipe
from distillation.trainers.regression import RegressionRecipe
from distillation.trainers.structure import StructureRecipe
from distillation.trainers.student import StudentRecipe
from distillation.trainers.teacher import Teacher
from distillation.training.errors import RecipeRefused

MAX_WEIGHT = 8
INT8, FLOAT16 = WEIGHTS = ("int8", "float16")


@dataclass(frozen=True)
class EvaluationRecipe:
    """seeds_per_variant: number of core seeds, which all evaluations share, for comparing releases over time.
    fresh_seeds: number of seeds of each variant that are derived from the run's name; only these decide, or the core if
    0. Pairs have other seeds, so no training uses these.

    margins: how much worse than the teacher is acceptable, in report and gate, set before measuring. speed: None = not
    measured.
    """

    seeds_per_variant: int = 4
    fresh_seeds: int = 4
    margins: Margins = field(default_factory=Margins)
    speed: SpeedRecipe | None = field(default_factory=SpeedRecipe)

    def __post_init__(self) -> None:
        if not 1 <= self.seeds_per_variant <= SEEDS_EACH:
            raise ValueError(
                f"seeds_per_variant must lie from 1 to {SEEDS_EACH}, not {self.seeds_per_variant}."
            )
        if not 0 <= self.fresh_seeds <= SEEDS_EACH:
            raise ValueError(
                f"fresh_seeds must lie from 0 to {SEEDS_EACH}, not {self.fresh_seeds}."
            )


@dataclass(frozen=True)
class Recipe:
    """timesteps: of the student's passes, descending; they are folded into its weights.

    image_size: of the teachers that it fits, pixels per side. structure, decoder: None takes these networks from a
    student release (`warm`), both or the student alone. regression, matching, joint: None leaves the stage out. again:
    the joint training of a run that starts from a student release. labels: the detector's classes of the pictures as a
    term of the joint training; None: no term. weights: one of WEIGHTS, the format of the student's stored weights;
    float16 leaves quantise out. most_variants: largest number of variants, those first that the active student does
    not cover; None: all. hard_weight: number of seeds, and thus share of batches, of a variant that no student makes
    well, as a multiple of the others'; for the hardest ones the surplus is doubled; 1: no preference.
    """

    name: str
    summary: str
    image_size: int
    timesteps: tuple[int, ...]
    student: StudentRecipe = field(default_factory=StudentRecipe)
    pairs: PairsRecipe = field(default_factory=PairsRecipe)
    decoder: DecoderRecipe | None = field(default_factory=DecoderRecipe)
    structure: StructureRecipe | None = field(default_factory=StructureRecipe)
    regression: RegressionRecipe | None = field(default_factory=RegressionRecipe)
    matching: MatchingRecipe | None = field(default_factory=MatchingRecipe)
    joint: JointRecipe | None = field(default_factory=JointRecipe)
    again: JointRecipe | None = field(default_factory=JointRecipe)
    labels: LabelsRecipe | None = None
    quantise: QuantiseRecipe = field(default_factory=QuantiseRecipe)
    evaluation: EvaluationRecipe = field(default_factory=EvaluationRecipe)
    gate: GateRecipe = field(default_factory=GateRecipe)
    most_variants: int | None = None
    weights: str = INT8
    hard_weight: int = 2

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise ValueError(f"weights must be one of {', '.join(WEIGHTS)}, not {self.weights!r}.")
        if not 1 <= self.hard_weight <= MAX_WEIGHT:
            raise ValueError(f"hard_weight: from 1 to {MAX_WEIGHT}, not {self.hard_weight}.")
        if self.most_variants is not None and self.most_variants < 1:
            raise ValueError(f"most_variants: at least 1, not {self.most_variants}.")
        if not self.timesteps or min(self.timesteps) < 0:
            raise ValueError(f"timesteps must be whole numbers from 0, not {self.timesteps}.")
        if any(later >= earlier for earlier, later in pairwise(self.timesteps)):
            raise ValueError(f"timesteps must be descending, not {self.timesteps}.")
        seeds = self.evaluation.fresh_seeds or self.evaluation.seeds_per_variant
        if self.gate.variant is not None and seeds + self.gate.second_look > SEEDS_EACH:
            raise ValueError(
                f"gate.second_look: {self.gate.second_look} seeds after the {seeds} of the evaluation are more than "
                f"the {SEEDS_EACH} of each variant. Give fewer of one of them."
            )
        if self.decoder is None and self.structure is not None:
            raise ValueError(
                "decoder is left out, so a student release must provide it: leave structure out as well."
            )
        if self.labels is not None and self.joint is None:
            raise ValueError("labels are a term of the stage joint: set joint, or leave them out.")
        if self.is_warm:
            if self.regression is not None or self.matching is not None:
                raise ValueError(
                    "regression and matching continue the stage structure: set that, or leave them out."
                )
        elif self.regression is not None:
            passes = len(self.regression.pass_weights)
            if passes != len(self.timesteps):
                raise ValueError(
                    f"timesteps has {len(self.timesteps)} passes and regression.pass_weights {passes}: make them equal."
                )
            if unknown := sorted(set(self.timesteps[1:]) - set(self.pairs.path_timesteps)):
                raise ValueError(
                    f"Passes after the first start at stored points of the teacher: add the timesteps {unknown} to "
                    "pairs.path_timesteps, or choose among these."
                )
        elif self.matching is not None or self.joint is not None:
            name = "joint" if self.matching is None else "matching"
            raise ValueError(
                f"{name} continues the training of the stage regression, which is left out: set regression, or leave "
                f"{name} out too."
            )

    @property
    def margins(self) -> Margins:
        """Return the margins against the teacher, of report and gate."""
        return self.gate.to_teacher or self.evaluation.margins

    @property
    def is_warm(self) -> bool:
        """Return whether the recipe starts from the student of a release."""
        return self.structure is None

    def check(self, teacher: Teacher) -> None:
        """Raise RecipeRefused, which names the field, if the recipe does not fit the teacher."""
        sizes = teacher.manifest.image_sizes
        if sizes[0] != (self.image_size, self.image_size):
            raise RecipeRefused(
                f"image_size: the recipe {self.name} is for teachers of {self.image_size} × {self.image_size} pixels, "
                f"{teacher.manifest.name} makes {sizes[0][0]} × {sizes[0][1]}. Choose another recipe: "
                f"{', '.join(RECIPES)}."
            )
        rollout.check(self.timesteps, teacher.schedule)
        if self.structure is not None:
            self.structure.check()


# --- the starter's --------------------------------------------------------------------------------
# The starter's student has 5.4 MB and takes 6 ms on two cores and 0.49 GB of memory.
_GATE = GateRecipe(most_bytes=12_000_000, most_seconds=0.25, most_memory=1_000_000_000)
_STRUCTURE = StructureRecipe(steps=1500)
_REGRESSION = RegressionRecipe(steps=2200, learning_rate=3e-4)
_TEXTURE_WEIGHT = 2.5  # with a smaller weight, generated wood has no grain
_PATCHES = PatchesRecipe(weight=0.005)
ONE_STEP = Recipe(
    name="starter-1step",
    summary=SUMMARIES["starter-1step"],
    image_size=256,
    timesteps=(999,),
    pairs=PairsRecipe(seeds_per_variant=32),
    decoder=DecoderRecipe(
        channels=64,
        blocks=(4, 1, 0),
        shuffle=4,
        steps=2500,
        pictures=8192,
        latent_noise=0.0,
        texture_weight=_TEXTURE_WEIGHT,
        patches=replace(_PATCHES, start_step=500),
    ),
    structure=_STRUCTURE,
    regression=_REGRESSION,
    matching=None,
    joint=JointRecipe(
        steps=3500,
        learning_rate=3e-4,
        least_margin=0.6,
        texture_weight=_TEXTURE_WEIGHT,
        patches=_PATCHES,
    ),
    again=JointRecipe(
        steps=1500,
        learning_rate=2e-4,
        least_margin=0.6,
        texture_weight=_TEXTURE_WEIGHT,
        patches=_PATCHES,
    ),
    gate=_GATE,
)
REHEARSAL = replace(
    ONE_STEP,
    name="rehearsal",
    summary=SUMMARIES["rehearsal"],
    pairs=PairsRecipe(seeds_per_variant=4, num_inference_steps=4, path_timesteps=(749,)),
    decoder=DecoderRecipe(
        channels=48, blocks=(3, 2, 0), shuffle=4, steps=20, warmup=2, pictures=64, latent_noise=0.0
    ),
    structure=StructureRecipe(steps=20, warmup=2, batch=8),
    regression=RegressionRecipe(steps=20, warmup=2, batch=8, watch_every=10, watched=16),
    joint=JointRecipe(steps=20, warmup=2, batch=8, watch_every=10, watched=16),
    again=JointRecipe(steps=20, warmup=2, batch=8, watch_every=10, watched=16),
    quantise=QuantiseRecipe(steps=4, warmup=0, batch=8, measured=8),
    evaluation=EvaluationRecipe(seeds_per_variant=1, fresh_seeds=1, speed=None),
    # Nearly all variants would be measured again, and twenty steps make nothing better.
    gate=replace(_GATE, variant=None, better=None),
    most_variants=24,
)
TWO_STEP = replace(
    ONE_STEP,
    name="starter-2step",
    summary=SUMMARIES["starter-2step"],
    timesteps=(999, 499),
    regression=replace(_REGRESSION, pass_weights=(1.0, 1.0), simulated=0.5),
)


def _method(name: str, objective: MethodRecipe, *, weight_decay: float = 0.01) -> Recipe:
    """Return a recipe with only the structure stage, by one method; the student has ten passes."""
    return replace(
        ONE_STEP,
        name=name,
        summary=SUMMARIES[name],
        timesteps=tuple(range(999, 0, -100)),
        structure=replace(_STRUCTURE, objective=objective, weight_decay=weight_decay),
        regression=None,
        joint=None,
        again=None,
    )


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        ONE_STEP,
        TWO_STEP,
        REHEARSAL,
        Recipe(
            name="sd15-tiny-1step",
            summary=SUMMARIES["sd15-tiny-1step"],
            image_size=512,
            timesteps=(
                625,
            ),  # at 999 errors of the predicted noise are 14.6 times as large in the picture
            pairs=PairsRecipe(
                seeds_per_variant=200,
                num_inference_steps=40,
                path_timesteps=(749, 499, 249),
                batch=8,
                written=64,
            ),
            decoder=DecoderRecipe(
                channels=64, blocks=(3, 3, 3, 1), steps=20_000, batch=8, learning_rate=5e-4
            ),
            structure=StructureRecipe(steps=20_000, batch=64, learning_rate=5e-5, warmup=500),
            regression=RegressionRecipe(
                steps=20_000, batch=32, learning_rate=1e-5, final_learning_rate=1e-6, warmup=500
            ),
            # A fake score of the teacher's size takes 4 × 3.4 GB: weights, gradients, two moments.
            matching=MatchingRecipe(
                steps=3000,
                student_after=200,
                fake_score="student",
                learning_rate=1e-5,
                final_learning_rate=1e-6,
                fake_learning_rate=2e-5,
            ),
            joint=JointRecipe(steps=5000, batch=8, learning_rate=1e-5, warmup=200, pictures=2048),
            again=JointRecipe(steps=2500, batch=8, learning_rate=1e-5, warmup=200, pictures=2048),
            quantise=QuantiseRecipe(measured=16),
        ),
        _method("hinton", HintonRecipe()),
        _method("ensemble", EnsembleRecipe()),
        _method("mmd", MmdRecipe()),
        _method("bayes", BayesRecipe(), weight_decay=0.0),
    )
}


def warm(recipe: Recipe, *, keeps_decoder: bool = True) -> Recipe:
    """Return the recipe of a run that starts from a student: joint training by `again`. Raises RecipeRefused.

    keeps_decoder: continue training the student's decoder as well; otherwise train a new one first, by `decoder`.
    """
    if recipe.again is None:
        raise RecipeRefused(
            f"again: the recipe {recipe.name} has no joint training for a run that starts from a "
            "student. Set it, or start without a student."
        )
    return replace(
        recipe,
        decoder=None if keeps_decoder else recipe.decoder,
        structure=None,
        regression=None,
        matching=None,
        joint=recipe.again,
    )


def named(name: str) -> Recipe:
    """Return the recipe of this name. Raises RecipeRefused."""
    if name not in RECIPES:
        raise RecipeRefused(f"recipe: there is no {name!r}; there are {', '.join(RECIPES)}.")
    return RECIPES[name]
