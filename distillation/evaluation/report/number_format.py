"""Numbers as people read them: rounded, with unit and interval. Knows not what they mean."""

from distillation.evaluation.distances import Interval
from distillation.evaluation.noninferiority import Verdict


def percent(interval: Interval) -> str:
    """Of a share 0 … 1: "86.5 % (83.1 to 89.2)"."""
    value, low, high = (100 * part for part in interval)
    return f"{value:.1f} % ({low:.1f} to {high:.1f})"


def number(interval: Interval, digits: int) -> str:
    """ "27.31 (26.90 to 27.70)"."""
    value, low, high = (minus(f"{part:.{digits}f}") for part in interval)
    return f"{value} ({low} to {high})"


def signed(value: float, digits: int) -> str:
    """ "+0.3", "−0.3", "±0.0"."""
    text = minus(f"{value:+.{digits}f}")
    return text if text[0] in "+−" and float(text[1:]) else f"±{text.lstrip('+')}"


def points(value: float) -> str:
    """The difference of two shares."""
    return f"{signed(100 * value, 1)} points"


def minus(text: str) -> str:
    """With the sign of typography, and none before a zero."""
    return text.replace("-", "−") if float(text) else text.replace("-", "")


def milliseconds(seconds: float) -> str:
    """Three digits or more: "0.412 ms", "41.2 ms", "1020 ms"."""
    value = 1000 * seconds
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f} ms"


def size(count: int) -> str:
    """In units of 1,000 and of 1,000,000 bytes."""
    if count < 100_000:
        return f"{count / 1e3:.1f} kB"
    return f"{count / 1e6:.1f} MB" if count < 100e6 else f"{count / 1e6:.0f} MB"


def times(larger: float, smaller: float) -> str:
    """ "12.3 times": by how much the first is larger."""
    ratio = larger / smaller
    return f"{ratio:.1f} times" if ratio < 100 else f"{ratio:.0f} times"


def count(number: int, noun: str) -> str:
    """ "1 step", "3 steps"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


def of_verdict(verdict: Verdict, value: float | None) -> str:
    """A value of a verdict, as its measure is written."""
    if value is None:
        return "–"
    if verdict.measure == "worst_prompts":
        return points(value)
    return f"{value:.3f}" if verdict.is_ratio else signed(value, 2)
