"""Candidates of a design: their choices, what they cost and how good they were in each rung."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from distillation.design.limits import Limits

Params = Mapping[str, str | int]  # of `space.Space`


@dataclass(frozen=True)
class Costs:
    """Measured of an untrained student. size: bytes of its release; time: seconds of one picture, the median; memory:
    bytes of the process at most, on a GPU those of the device. time and memory are None where size is over its limit.
    """

    size: int
    time: float | None = None
    memory: int | None = None
    device: str = ""  # as the engine describes it

    def excess(self, limits: Limits) -> dict[str, float]:
        """Return the measured value ÷ limit − 1 by the names of the limits; above 0 is over it."""
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
    """One rung. share: of the recipe's training that was done; quality: right pictures, student ÷ teacher, with the
    ends of its one-sided 95 % intervals; distance: of its pictures to the teacher's; seconds: that the rung took;
    folder: of the student, relative to the root.
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

    @property
    def score(self) -> float:
        """What candidates of one rung are ranked by: after little training all may have quality 0, and even then the
        pictures that are nearer to the teacher's tell the better one. It is shown nowhere.
        """
        return self.quality - self.distance


@dataclass(frozen=True)
class Candidate:
    """refused: why it can be neither measured nor trained; "" for all others."""

    number: int
    params: Params
    costs: Costs | None = None
    rungs: tuple[Judged, ...] = ()
    refused: str = ""

    @property
    def last(self) -> Judged | None:
        """The rung it was judged in last."""
        return self.rungs[-1] if self.rungs else None

    def as_json(self) -> dict[str, Any]:
        """Return everything but the number, as JSON values."""
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
            tuple(Judged(**rung) for rung in values["rungs"]),
            values["refused"],
        )


# Chooses the next candidate's params by those there are; None: all were taken.
Choose = Callable[[Sequence[Candidate]], Params | None]
