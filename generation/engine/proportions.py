"""Proportions with confidence intervals."""

from dataclasses import dataclass
from math import hypot, sqrt

Z = 1.959964  # of a normal distribution, for 95 %


@dataclass(frozen=True)
class Share:
    """`count` of `total` pictures."""

    count: int
    total: int

    def __post_init__(self) -> None:
        if not 0 <= self.count <= self.total or self.total == 0:
            raise ValueError(
                f"A share is of at least one picture, not {self.count} of {self.total}."
            )

    @property
    def value(self) -> float:
        return self.count / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of Wilson (1927), valid near 0 and 1 too, where value ± z·error leaves the range."""
        n, p = self.total, self.value
        middle = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
        half = Z / (1 + Z**2 / n) * sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
        return max(0.0, middle - half), min(1.0, middle + half)


def difference(share: Share, other: Share) -> tuple[float, float]:
    """Return the 95 % interval of share − other, for independent pictures (Newcombe 1998, method 10)."""
    (low, high), (other_low, other_high) = share.interval, other.interval
    change = share.value - other.value
    return (
        change - hypot(share.value - low, other_high - other.value),
        change + hypot(high - share.value, other.value - other_low),
    )
