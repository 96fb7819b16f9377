"""Candidates as a search records them."""

from distillation.design.candidates import Candidate, Costs, Judged
from distillation.design.halving import SHARES

PARAMS = {
    "cut": "tiny", "width": "1", "timesteps": "999", "channels": 64, "depth": 4, "shuffle": 4,
    "method": "guidance", "weights": "int8",
}  # fmt: skip


def candidate(
    number: int,
    *qualities: float,
    size: float = 8,
    time: float = 10,
    memory: float = 300,
    spread: float = 0.02,
    **params: str | int,
) -> Candidate:
    """Return a candidate. size, memory: MB; time: ms; qualities: of its rungs; spread: half of an interval."""
    rungs = tuple(
        Judged(
            rung=rung,
            share=SHARES[rung],
            quality=quality,
            low=quality - spread,
            high=quality + spread,
            distance=1 - quality,
            pictures=256,
            seconds=60.0 * 3**rung,
            folder=f"bundle-{number}-{rung}/release",
        )
        for rung, quality in enumerate(qualities)
    )
    costs = Costs(round(size * 1e6), time / 1000, round(memory * 1e6), "cpu")
    return Candidate(number, PARAMS | params, costs, rungs)
