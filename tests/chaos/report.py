"""The table and the plot of a run, from the rounds that have ended."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # before pyplot: there may be no screen
import numpy as np
from matplotlib import pyplot as plt

from tests.chaos.rounds import Result

HEADS = (
    "fault",
    "jobs",
    "lost",
    "doubled",
    "failed",
    "other",
    "first success",
    "longest transaction",
)
BIN_SECONDS = 1.0
TAIL_SECONDS = 15.0  # that are shown after the last recovery
DPI = 100
ORANGE = "#d1691f"


def table(results: Sequence[Result]) -> str:
    """Return a Markdown table. other: violations other than lost, doubled and failed jobs."""
    lines = [f"| {' | '.join(HEADS)} |", f"|{'---|' * len(HEADS)}"]
    lines += [f"| {' | '.join(_cells(result))} |" for result in results]
    return "\n".join(lines)


def _cells(result: Result) -> list[str]:
    counted = result.lost + result.doubled + result.failed
    recovered = "none" if result.recovered is None else f"{result.recovered:.1f} s"
    return [
        result.name,
        str(result.jobs),
        str(result.lost),
        str(result.doubled),
        str(result.failed),
        str(max(0, len(result.violations) - counted)),
        recovered,
        f"{result.longest_transaction:.1f} s",
    ]


def totals(results: Sequence[Result]) -> str:
    jobs, lost = sum(r.jobs for r in results), sum(r.lost for r in results)
    doubled, failed = sum(r.doubled for r in results), sum(r.failed for r in results)
    return f"{len(results)} rounds, {jobs} jobs: {lost} lost, {doubled} doubled, {failed} failed."


def violations(results: Sequence[Result], *, most: int = 3) -> str:
    """Return the violations by round and invariant, with the first of each."""
    lines = []
    for result in results:
        counts = Counter(found["invariant"] for found in result.violations)
        for invariant, count in counts.items():
            lines.append(f"{result.name}: {invariant}: {count}")
            same = [found for found in result.violations if found["invariant"] == invariant]
            lines += [f"    {found['subject']}: {found['detail']}" for found in same[:most]]
    return "\n".join(lines)


def plot(results: Sequence[Result], path: Path) -> None:
    """Draw computed successes a second around each fault, a row each; the fault lies between the marks."""
    before = max(result.began for result in results)
    after = TAIL_SECONDS + max(r.ended - r.began + (r.recovered or 0.0) for r in results)
    edges = np.arange(-before, after + BIN_SECONDS, BIN_SECONDS)
    rows = np.array(
        [
            np.histogram([at - result.began for at in result.successes], edges)[0] / BIN_SECONDS
            for result in results
        ]
    )
    height = 1.4 + 0.24 * len(results)
    figure, axes = plt.subplots(figsize=(9, height), layout="constrained")
    image = axes.imshow(
        rows, aspect="auto", cmap="Blues", interpolation="nearest",
        extent=(edges[0], edges[-1], len(results) - 0.5, -0.5), vmax=max(1.0, float(np.percentile(rows, 99))),
    )  # fmt: skip
    for number, result in enumerate(results):
        for at in (0.0, result.ended - result.began):
            axes.plot([at, at], [number - 0.45, number + 0.45], color=ORANGE, linewidth=2)
        if result.recovered is not None:
            at = result.ended - result.began + result.recovered
            axes.plot(at, number, marker=".", color="black", markersize=5)
    axes.set_yticks(range(len(results)), [result.name for result in results], fontsize=8)
    axes.set(xlabel="seconds since the fault began", xlim=(edges[0], edges[-1]))
    axes.set_title("orange: begin and end of the fault; point: first success after it", fontsize=9)
    figure.colorbar(image, label="jobs computed a second", fraction=0.04)
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
