"""Candidates of a design: parameters, costs, and the quality in each rung."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from distillation.design.limits import Limits

Params = Mapping[str, str | int]  # of `space.Space`


@dataclass(frozen=True)
class Costs:
    """Costs measured on an untrained student.

    size: bytes of its release; time: median seconds per picture; memory: peak bytes of the process, or of the device
    on a GPU. time and memory are None where size exceeds its limit.
    """

    size: int
    time: float | None = None
    memory: int | None = None
    device: str = ""  # as the engine describes it

    def excess(self, limits: Limits) -> dict[str, float]:
        """Return value ÷ limit − 1 by the name of the limit: positive if the limit is exceeded."""
        found = {}
        for name in ("size", "time", "memory"):
            limit, value = getattr(limits, name), getattr(self, name)
            if limit is not None and value is not None:
                found[name] = value / limit - 1
        return found

    def are_within(self, limits: Limits) -> bool:
        return all(value <= 0 for value in self.excess(limits).values())


@dataclass(frozen=True)
class Judged:
    """Result of one rung.

    share: of the recipe's training done so far; quality: right pictures, student ÷ teacher; low, high: ends of its
    one-sided 95 % intervals; distance: mean, of its pictures to the teacher's; pictures: number judged; seconds:
    duration of the rung; folder: of the student's release, relative to the root; right: number of right pictures of
    each prompt that states something, of `each` pictures; empty in designs of older code.
    """

    rung: int
    share: float
    quality: float
    low: float
    high: float
    distance: float
    pictures: int
    seconds: float
    folder: str
    right: tuple[int, ...] = ()
    each: int = 0

    @property
    def score(self) -> float:
        """Return the value that ranks the candidates of a rung: quality − distance.

        After little training all may have quality 0; then the distance ranks them.
        """
        return self.quality - self.distance


@dataclass(frozen=True)
class Candidate:
    """A candidate of a design. refused: why it can be neither measured nor trained; otherwise ""."""

    number: int
    params: Params
    costs: Costs | None = None
    rungs: tuple[Judged, ...] = ()
    refused: str = ""

    @property
    def last(self) -> Judged | None:
        """Return the result of the last rung; None before the first."""
        return self.rungs[-1] if self.rungs else None

    def as_json(self) -> dict[str, Any]:
        """Return all fields but the number as JSON values."""
        return {
            "params": dict(self.params),
            "costs": None if self.costs is None else asdict(self.costs),
            "rungs": [asdict(rung) for rung in self.rungs],
            "refused": self.refused,
        }

    @classmethod
    def from_json(cls, number: int, values: Mapping[str, Any]) -> "Candidate":
        costs = values["costs"]
        return cls(
            number,
            dict(values["params"]),
            None if costs is None else Costs(**costs),
            tuple(
                Judged(**rung | {"right": tuple(rung.get("right", ()))}) for rung in values["rungs"]
            ),
            values["refused"],
        )


# Returns the next candidate's parameters, given all candidates so far; None if no combination is left.
Choose = Callable[[Sequence[Candidate]], Params | None]
