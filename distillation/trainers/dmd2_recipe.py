"""The hyper-parameters of distribution matching, and which of them contradict each other. Knows no tensors."""

import math
from dataclasses import dataclass, field

from distillation.losses import distribution_matching
from distillation.trainers.discriminator import AdversarialRecipe
from distillation.trainers.perception import PerceptionRecipe

FAKE_SCORES = ("teacher", "student")


@dataclass(frozen=True)
class MatchingRecipe:
    """batch, critic_batch: rows of an update of the student, and of the fake score, which has critic_updates each step.

    student_after: steps in which the fake score learns alone. It begins as the teacher without guidance; to a student
    that has learnt from the guided teacher that says "more guidance still" until it knows the student.
    paired: how many rows of `batch` begin with the noise of a pair and are held to its latents as well.
    fake_score: what it starts from, the teacher or the student of the structure stage.
    guidance_scale: of the teacher's score; None is its own.
    adversarial: None is no adversarial term. divergence: of `losses.matching.DIVERGENCES`, once the student hears the
    heads, whose logits give the ratio of the densities.
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
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    clipped_norm: float = 1.0
    ema_decay: float = 0.99
    regression_weight: float = 0.25  # falls by half a cosine to final_regression_weight
    final_regression_weight: float = 0.05
    perception: PerceptionRecipe = field(default_factory=PerceptionRecipe)
    adversarial: AdversarialRecipe | None = field(default_factory=AdversarialRecipe)
    divergence: str = "jensen_shannon"
    watch_every: int = 10
    watched: int = 64  # pairs
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "critic_batch", "critic_updates", "watch_every", "watched"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("learning_rate", "fake_learning_rate", "clipped_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}.")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay must not be negative, not {self.weight_decay}.")
        for name in ("learning_rate", "regression_weight"):
            first, last = getattr(self, name), getattr(self, f"final_{name}")
            if not 0 <= last <= first:
                raise ValueError(f"final_{name} must lie from 0 to {name} ({first}), not {last}.")
        if not 0 <= self.student_after < self.steps:
            raise ValueError(
                f"student_after must lie from 0 to below steps ({self.steps}), not {self.student_after}."
            )
        if not 0 <= self.warmup <= self.steps - self.student_after:
            raise ValueError(
                f"warmup must lie from 0 to steps less student_after ({self.steps - self.student_after}), "
                f"not {self.warmup}."
            )
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), not {self.ema_decay}.")
        if not 0 <= self.paired <= self.batch:
            raise ValueError(f"paired must lie from 0 to batch ({self.batch}), not {self.paired}.")
        if (self.paired == 0) != (self.regression_weight == 0):
            raise ValueError(
                "paired and regression_weight belong together: both above 0, or both 0, "
                f"not {self.paired} and {self.regression_weight}."
            )
        if self.fake_score not in FAKE_SCORES:
            raise ValueError(
                f"fake_score must be one of {', '.join(FAKE_SCORES)}, not {self.fake_score!r}."
            )
        if self.guidance_scale is not None and not 1 <= self.guidance_scale < math.inf:
            raise ValueError(f"guidance_scale must be at least 1, not {self.guidance_scale}.")
        if self.divergence not in distribution_matching.DIVERGENCES:
            raise ValueError(
                f"divergence must be one of {', '.join(distribution_matching.DIVERGENCES)}, not {self.divergence!r}."
            )
        if self.adversarial is None and self.divergence != "reverse_kl":
            raise ValueError(
                f"divergence {self.divergence!r} weighs by the heads' logits, and adversarial is null: "
                "without it, give reverse_kl."
            )
