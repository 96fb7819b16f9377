"""The seeds of an evaluation. Loads no torch."""

import hashlib
from collections.abc import Sequence

Seeds = tuple[tuple[int, ...], ...]  # [prompts][seeds of each]
SEEDS_EACH = 512  # reserved for each prompt; all of them below 2**40, which trainings do not use


def seeds_of(slugs: Sequence[str], *, each: int, skip: int = 0, run: str = "") -> Seeds:
    """Return the seeds of each prompt. They depend on its slug alone, so that a second evaluation reuses the pictures.

    skip: number of seeds left to other evaluations. run: a name; then the seeds depend on it as well, so that they are
    new for each run, and the same when it is resumed.
    """
    if each < 1 or skip < 0 or each + skip > SEEDS_EACH:
        raise ValueError(f"{each} seeds each after {skip}: give at least 1, {SEEDS_EACH} in all.")
    names = [f"{slug} {run}" for slug in slugs] if run else slugs  # a slug contains no space
    firsts = [SEEDS_EACH * _number(name) + skip for name in names]
    return tuple(tuple(range(first, first + each)) for first in firsts)


def _number(name: str) -> int:
    """Return a hash of 31 bits."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") >> 1
