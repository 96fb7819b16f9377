"""Limits of a design, and the wish by which to choose among candidates that meet them. Loads no torch."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

UNITS = {
    "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30,
}  # fmt: skip
TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
SMALLEST, FASTEST, BEST = WISHES = ("smallest", "fastest", "best")
AUTO = "auto"
MAX_QUALITY = 1.5
MAX_HOURS = 720.0
MAX_DEVICE = 20  # characters


class LimitRefused(ValueError):
    """A limit that cannot be parsed. field: its name; reason: what is wrong, and the expected format."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field, self.reason = field, reason


@dataclass(frozen=True)
class Limits:
    """Maximum costs of a student and its minimum quality; None: no limit.

    size, memory: bytes; time: seconds of one picture; quality: right pictures, student ÷ teacher.
    """

    size: int | None = None
    time: float | None = None
    memory: int | None = None
    quality: float | None = None

    def as_json(self) -> dict[str, float]:
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Limits":
        return cls(**{field.name: values.get(field.name) for field in fields(cls)})


def parse(
    *, size: str = "", time: str = "", memory: str = "", quality: str = ""
) -> tuple[Limits, str]:
    """Return the limits and the device on which time and memory are measured. Raises LimitRefused.

    The formats are "8MB", "12ms@cpu", "500MB" and "0.97"; each may be empty.
    """
    seconds, device = _time(time) if time else (None, AUTO)
    return (
        Limits(
            _bytes("size", size) if size else None,
            seconds,
            _bytes("memory", memory) if memory else None,
            _quality(quality) if quality else None,
        ),
        device,
    )


def _bytes(name: str, text: str) -> int:
    number, unit = _split(text)
    if number is None or unit.upper() not in UNITS or number * UNITS[unit.upper()] < 1:
        raise LimitRefused(
            name,
            f"{text!r} is not a number of bytes. Give a number above 0 with one of the units "
            "B, kB, MB, GB, KiB, MiB, GiB, such as 8MB.",
        )
    return round(number * UNITS[unit.upper()])


def _time(text: str) -> tuple[float, str]:
    span, at, device = text.partition("@")
    number, unit = _split(span)
    if not number or unit not in TIMES or (at and not device.strip()):
        raise LimitRefused(
            "time",
            f"{text!r} is not a time of one picture. Give a number above 0 with us, ms or s, and the device "
            "after an @, such as 12ms@cpu or 3ms@cuda:0.",
        )
    device = device.strip() or AUTO
    if len(device) > MAX_DEVICE:
        raise LimitRefused(
            "time", f"a device has at most {MAX_DEVICE} characters, such as cpu or cuda:0."
        )
    return number * TIMES[unit], device


def _quality(text: str) -> float:
    number, unit = _split(text)
    value = number / 100 if number is not None and unit == "%" else number
    if value is None or unit not in ("", "%") or not 0 < value <= MAX_QUALITY:
        raise LimitRefused(
            "quality",
            f"{text!r} is not a share. Give right pictures of the student ÷ those of the teacher, above 0 and "
            f"up to {MAX_QUALITY}, such as 0.97 or 97%.",
        )
    return value


def _split(text: str) -> tuple[float | None, str]:
    """Return the leading number and the unit after it; (None, "") if there is no number."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z%]*)", text.strip())
    return (float(found[1]), found[2]) if found else (None, "")


# --- for people -----------------------------------------------------------------------------------
def shown(name: str, value: float) -> str:
    """Return a value of the named limit as text: "8.2 MB", "12.4 ms", "0.970"."""
    if name in ("size", "memory"):
        size, unit = next(
            (size, unit) for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if value >= size or unit == "kB"
        )  # fmt: skip
        return f"{value / size:.3g} {unit}"
    if name == "time":
        return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"
    return f"{value:.3f}"
