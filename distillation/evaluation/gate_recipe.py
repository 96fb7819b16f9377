"""The limits of the gate, as a part of a recipe."""

from dataclasses import dataclass, field

from distillation.evaluation.noninferiority import Margins


@dataclass(frozen=True)
class GateRecipe:
    """to_teacher: margins that the lower end of the candidate's interval must reach; None = those of the evaluation, so
    that report and gate test the same. to_active: margins against the active release.

    variant: the least change of the share of right pictures of any one variant, against the active release if that
    covers it, otherwise against the teacher. Variants that lose more are measured again with `second_look` new seeds,
    and only these count: among hundreds of variants some lose by chance.
    better: the candidate must be better than the active release somewhere: by a measure of `to_active` but the worst
    prompts, with certainty; by prompts or texts that only the candidate covers; or by seconds or bytes of at most this
    multiple of the active release's; None = it need not.
    slower, larger: the limits of seconds per picture and bytes, as multiples of the active release's.
    most_seconds, most_bytes, most_memory: absolute limits of seconds per picture on this machine, bytes on disk and
    resident bytes; None = no limit. Growth within the relative limits adds up over releases; these bound it.
    """

    to_teacher: Margins | None = None
    to_active: Margins = field(
        default_factory=lambda: Margins(
            attributes_right=0.95, diversity=0.9, clip_score=-0.5, sharpness=0.95
        )
    )
    variant: float | None = -0.6
    second_look: int = 12
    better: float | None = 0.9
    slower: float = 1.5
    larger: float = 1.5
    most_seconds: float | None = None
    most_bytes: int | None = None
    most_memory: int | None = None

    def __post_init__(self) -> None:
        if self.variant is not None and not -1 <= self.variant < 0:
            raise ValueError(f"variant: a loss from -1 to below 0, not {self.variant}.")
        if self.second_look < 1:
            raise ValueError(f"second_look: at least 1 seed, not {self.second_look}.")
        if self.better is not None and not 0 < self.better < 1:
            raise ValueError(f"better: above 0 and below 1, not {self.better}.")
        for name in ("slower", "larger"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name}: at least 1, not {getattr(self, name)}.")
        for name in ("most_seconds", "most_bytes", "most_memory"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}: above 0, not {value}.")
