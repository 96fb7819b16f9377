"""Cells of a candidate in tables: on its page and in the report. Loads no torch."""

from collections.abc import Mapping

from distillation.design.candidates import Candidate
from distillation.design.limits import shown

NONE = "–"


def cells(candidate: Candidate) -> Mapping[str, str]:
    """Return the texts of a candidate's row by column heading."""
    params, costs, last = candidate.params, candidate.costs, candidate.last
    refused = candidate.refused[:80] or NONE
    measured = {
        name: NONE if costs is None or getattr(costs, name) is None else shown(name, getattr(costs, name))
        for name in ("size", "time", "memory")
    }  # fmt: skip
    return {
        "candidate": str(candidate.number),
        "student": f"{params['cut']}, width {params['width']}",
        "passes": str(len(str(params["timesteps"]).split())),
        "decoder": f"{params['channels']} channels, depth {params['depth']}, shuffle {params['shuffle']}",
        "method": str(params["method"]),
        "weights": str(params["weights"]),
        **measured,
        "quality": f"{last.quality:.3f} ({last.low:.3f} to {last.high:.3f})" if last else refused,
        "training": f"{100 * last.share:.0f} %" if last else NONE,
    }  # fmt: skip
