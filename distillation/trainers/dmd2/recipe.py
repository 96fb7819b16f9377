"""Hyper-parameters of distribution matching (DMD2), and their checks."""

from dataclasses import dataclass, field

from distillation.trainers.dmd2.discriminator import AdversarialRecipe
from distillation.trainers.few_step import WatchedRecipe
from distillation.trainers.perception import PerceptionRecipe
from distillation.training import checks

FAKE_SCORES = ("teacher", "student")


@dataclass(frozen=True)
class MatchingRecipe(WatchedRecipe):
    """batch, critic_batch: rows of an update of the student, and of the fake score, which has critic_updates per step.

    student_after: steps in which only the fake score is trained. It starts as the unguided teacher, which acts like
    additional guidance on a student of the guided teacher until the fake score has adapted to the student.
    paired: rows of `batch` that start from the noise of a pair and are regressed on its latents as well.
    fake_score: the network it starts from, the teacher or the student of the structure stage.
    guidance_scale: of the teacher's score; None = its own.
    adversarial: None = no such term. Once the heads' loss is added to the student's, their logits, which estimate the
    density ratio, also weigh the samples.
    """

    steps: int = 300
    batch: int = 32
    critic_batch: int = 16
    critic_updates: int = 5
    student_after: int = 20
    paired: int = 16
    fake_score: str = "teacher"
    guidance_scale: float | None = None
    learning_rate: float = 2e-5  # of the student; falls by half a cosine to final_learning_rate
    final_learning_rate: float = 2e-6
    fake_learning_rate: float = 1e-4
    warmup: int = 10
    weight_decay: float = 0.01
    regression_weight: float = 0.25  # falls by half a cosine to final_regression_weight
    final_regression_weight: float = 0.05
    perception: PerceptionRecipe = field(default_factory=PerceptionRecipe)
    adversarial: AdversarialRecipe | None = field(default_factory=AdversarialRecipe)
    watch_every: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least_1(self, "critic_batch", "critic_updates")
        checks.positive(self, "fake_learning_rate")
        checks.not_negative(self, "weight_decay")
        for name in ("learning_rate", "regression_weight"):
            checks.at_most(self, f"final_{name}", getattr(self, name), name)
        if not 0 <= self.student_after < self.steps:
            raise ValueError(
                f"student_after must lie from 0 to below steps ({self.steps}), not {self.student_after}."
            )
        moving = self.steps - self.student_after
        checks.at_most(self, "warmup", moving, "steps less student_after")
        checks.at_most(self, "paired", self.batch, "batch")
        if (self.paired == 0) != (self.regression_weight == 0):
            raise ValueError(
                "paired and regression_weight belong together: both above 0, or both 0, "
                f"not {self.paired} and {self.regression_weight}."
            )
        checks.one_of(self, "fake_score", FAKE_SCORES)
        checks.at_least_1(self, "guidance_scale")

    @property
    def needs_structure(self) -> bool:
        """Return whether the fake score starts from the student of the structure stage."""
        return self.fake_score == "student"
