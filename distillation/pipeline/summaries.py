"""Names, summaries and limits of the recipes. Loads no torch: the web process offers them."""

from dataclasses import dataclass

_METHOD = "The structure stage alone, ten passes."

# Fields that a run may change; `recipes.Recipe` has them.
FIELDS = (
    "name", "summary", "image_size", "timesteps", "student", "pairs", "decoder", "structure", "regression", "matching",
    "joint", "again", "labels", "quantise", "weights", "evaluation", "gate", "most_variants", "hard_weight",
)  # fmt: skip

SUMMARIES: dict[str, str] = {
    "starter-1step": "The starter's student: one pass of the tiny cut.",
    "starter-2step": "Two passes of the tiny cut.",
    "sd15-tiny-1step": "Stable Diffusion 1.5 at 512 × 512: one pass of BK-SDM's tiny cut.",
    "hinton": f"Soft and hard targets (Hinton et al. 2015). {_METHOD}",
    "ensemble": f"Several teachers, weighted by their agreement. {_METHOD}",
    "mmd": f"MMD between the outputs of all layers (Huang & Wang 2017). {_METHOD}",
    "bayes": f"The teacher's posterior as the student's prior (Grabovoy & Strijov 2021). {_METHOD}",
    "rehearsal": "All stages with a few steps for 24 prompt variants, new ones first: to try out the way to a "
    "decision. Its pictures are poor, and only a person may activate its release.",
}

# Releases of these recipes are never activated, and never become a canary, without a person.
REHEARSALS = frozenset({"rehearsal"})


@dataclass(frozen=True)
class Fit:
    """Requirements of a recipe. again_steps: steps of the joint training that continues a student; None: not possible.

    most_variants: see `recipes.Recipe`.
    """

    image_size: int
    timesteps: tuple[int, ...]
    again_steps: int | None
    most_variants: int | None = None


@dataclass(frozen=True)
class Reference:
    """Measured minutes of a run on another machine. on: the machine and the catalogue."""

    minutes: int
    on: str


# By (recipe, whether the run continues a student). The first is that of docs/experiments.md of 2026-11-25 and the 24
# minutes of fresh seeds, which it did not have (docs/redistillation.md); the second is that of docs/performance.md.
REFERENCES: dict[tuple[str, bool], Reference] = {
    ("starter-1step", True): Reference(100, "two cores of an AMD EPYC for 276 prompts"),
    ("starter-1step", False): Reference(120, "two cores for 256 prompts"),
}

_TEN_PASSES = Fit(256, tuple(range(999, 0, -100)), None)
FITS: dict[str, Fit] = {
    "starter-1step": Fit(256, (999,), 1500),
    "starter-2step": Fit(256, (999, 499), 1500),
    "sd15-tiny-1step": Fit(512, (625,), 2500),
    "hinton": _TEN_PASSES,
    "ensemble": _TEN_PASSES,
    "mmd": _TEN_PASSES,
    "bayes": _TEN_PASSES,
    "rehearsal": Fit(256, (999,), 20, 24),
}
