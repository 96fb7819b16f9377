"""Measured batch times by release, size and number of images, and the best number of images per batch.

A worker measures its own batches and stores the result in its row, for estimates.
"""

import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

SAMPLES = 20  # per number of images
TRIES = 3  # samples after which a number of images counts as measured
REMEASURED_SECONDS = 3600.0  # the device may have been busy before
TOLERANCE = 1.1  # the smallest batch within this factor of the least time per image is preferred


@dataclass(frozen=True)
class Seconds:
    """Seconds of a batch: median and 90th percentile."""

    p50: float
    p90: float

    def times(self, factor: float) -> "Seconds":
        return Seconds(self.p50 * factor, self.p90 * factor)


Curve = Mapping[int, Seconds]  # by number of images
Stored = Mapping[str, Mapping[str, Sequence[float]]]  # as in the worker's row


def key_of(release_id: int, width: int, height: int) -> str:
    """Return the key of a curve. The claim builds the same key in SQL."""
    return f"{release_id}:{width}x{height}"


def at(curve: Curve, images: int) -> Seconds | None:
    """Return the time of a batch of so many images, interpolated between measured numbers, proportional outside.

    None without measurements.
    """
    if not curve:
        return None
    below = max((n for n in curve if n <= images), default=min(curve))
    above = min((n for n in curve if n >= images), default=max(curve))
    if below >= above:
        return curve[below].times(images / below)
    share = (images - below) / (above - below)
    low, high = curve[below], curve[above]
    return Seconds(low.p50 + share * (high.p50 - low.p50), low.p90 + share * (high.p90 - low.p90))


def best(curve: Curve, most: int) -> int:
    """Return the best number of images per batch: the smallest whose time per image is close to the least.

    So the queue empties about as fast as possible, and no image waits for others without a gain.
    """
    numbers = [1 << power for power in range(most.bit_length()) if 1 << power < most] + [most]
    each = {n: found.p50 / n for n in numbers if (found := at(curve, n)) is not None}
    least = min(each.values(), default=0.0)
    return min((n for n, seconds in each.items() if seconds <= TOLERANCE * least), default=most)


def parse(stored: Stored, key: str) -> Curve:
    """Return a curve from a worker's row."""
    return {int(n): Seconds(*seconds) for n, seconds in stored.get(key, {}).items()}


class Measurements:
    """Times of this worker's batches. Thread-safe: committing threads write, the claiming thread reads."""

    def __init__(self) -> None:
        self._samples: dict[str, dict[int, deque[tuple[float, float]]]] = defaultdict(dict)
        self._guard = Lock()

    def record(self, key: str, images: int, seconds: float) -> None:
        """Record the time of a batch on the device and for its files."""
        with self._guard:
            samples = self._samples[key].setdefault(images, deque(maxlen=SAMPLES))
            samples.append((time.monotonic(), seconds))

    def curve(self, key: str) -> Curve:
        with self._guard:
            return {n: _middle(samples) for n, samples in self._samples.get(key, {}).items()}

    def limit(self, key: str, most: int) -> int:
        """Return the best number of images per batch, or `most` if that must be measured again."""
        with self._guard:
            largest = list(self._samples.get(key, {}).get(most, ()))[-TRIES:]
        if len(largest) < TRIES or time.monotonic() - largest[0][0] > REMEASURED_SECONDS:
            return most
        return best(self.curve(key), most)

    def limits(self, most: int) -> dict[str, int]:
        """Return the limits that are lower than the largest batch, by `key_of`."""
        with self._guard:
            keys = list(self._samples)
        found = {key: self.limit(key, most) for key in keys}
        return {key: limit for key, limit in found.items() if limit < most}

    def stored(self) -> dict[str, dict[str, list[float]]]:
        """Return the curves for the worker's row."""
        with self._guard:
            keys = list(self._samples)
        return {
            key: {
                str(n): [round(seconds.p50, 5), round(seconds.p90, 5)]
                for n, seconds in sorted(self.curve(key).items())
            }
            for key in keys
        }


def _middle(samples: Sequence[tuple[float, float]]) -> Seconds:
    values = sorted(seconds for _, seconds in samples)
    return Seconds(values[len(values) // 2], values[min(len(values) - 1, len(values) * 9 // 10)])
