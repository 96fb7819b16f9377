"""Numbers as text: rounded, with unit and interval."""

from collections.abc import Mapping, Sequence

from distillation.evaluation.noninferiority import Verdict
from distillation.evaluation.results import Both
from generation.engine.proportions import Share


def percent(interval: Sequence[float]) -> str:
    """Return a share 0 … 1 with its interval: "86.5 % (83.1 to 89.2)"."""
    value, low, high = (100 * part for part in interval)
    return f"{value:.1f} % ({low:.1f} to {high:.1f})"


def share(value: Mapping[str, int]) -> str:
    """Return a share in JSON, {"count", "total"}, with its interval as `percent` does."""
    found = Share(value["count"], value["total"])
    return percent((found.value, *found.interval))


def per_cent(value: float | None, digits: int) -> str:
    """Return a share 0 … 1 in per cent, without the sign: "86.5"; "–" for None."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def number(interval: Sequence[float], digits: int) -> str:
    """Return a value with its interval: "27.31 (26.90 to 27.70)"."""
    value, low, high = (minus(f"{part:.{digits}f}") for part in interval)
    return f"{value} ({low} to {high})"


def signed(value: float, digits: int) -> str:
    """Return a change with its sign: "+0.3", "−0.3", "±0.0"."""
    text = minus(f"{value:+.{digits}f}")
    return text if text[0] in "+−" and float(text[1:]) else f"±{text.lstrip('+')}"


def points(value: float) -> str:
    """Return the difference of two shares 0 … 1 in percentage points."""
    return f"{signed(100 * value, 1)} points"


def minus(text: str) -> str:
    """Replace the hyphen by a minus sign; remove it before a zero."""
    return text.replace("-", "−") if float(text) else text.replace("-", "")


def milliseconds(seconds: float) -> str:
    """Return the time with three digits or more: "0.412 ms", "41.2 ms", "1020 ms"."""
    value = 1000 * seconds
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f} ms"


def size(count: int) -> str:
    """Return the bytes in units of 1,000 or 1,000,000."""
    if count < 100_000:
        return f"{count / 1e3:.1f} kB"
    return f"{count / 1e6:.1f} MB" if count < 100e6 else f"{count / 1e6:.0f} MB"


def times(larger: float, smaller: float) -> str:
    """Return by how much the first is larger: "12.3 times"."""
    ratio = larger / smaller
    return f"{ratio:.1f} times" if ratio < 100 else f"{ratio:.0f} times"


def count(number: int, noun: str) -> str:
    """Return "1 step", "3 steps"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


def ratio(both: Both) -> str:
    """Return the student's value ÷ the teacher's: "0.88"."""
    return f"{both.student.value / both.teacher.value:.2f}" if both.teacher.value else "–"


def of_verdict(verdict: Verdict, value: float | None) -> str:
    """Return a value of a verdict in the format of its measure."""
    if value is None:
        return "–"
    if verdict.measure in ("worst_prompts", "each_prompt"):
        return points(value)
    return f"{value:.3f}" if verdict.is_ratio else signed(value, 2)
