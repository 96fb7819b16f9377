"""Explanation of a gate for people: one sentence on what it found, and what to do. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.template.defaultfilters import pluralize

from distillation.design import limits
from distillation.evaluation.gate_limits import BETTER, QUALITY

MEASURES = {  # by the measure in a check's name: what its value is
    "attributes_right": "the share of pictures with everything right",
    "worst_prompts": "the share of right pictures of the worst prompts",
    "diversity": "the diversity of a prompt's pictures",
    "clip_score": "the CLIP score",
    "sharpness": "the sharpness",
    "seconds": "the time per picture",
    "bytes": "the size on disk",
    "memory": "the memory",
}
COSTS = ("seconds", "bytes", "memory")
RATIOS = ("attributes_right", "diversity", "sharpness", *COSTS)  # others are differences
OTHERS = {"teacher": "the teacher", "active": "the active release"}
ABSOLUTE = " at most"  # end of the names of checks against an absolute limit
PARTS = ("found", "low", "limit")  # values of a check
NO_BETTER = "It is no worse than the active release, and not better anywhere"
NAMED = 2  # failed checks in a sentence


@dataclass(frozen=True)
class Explanation:
    """found: one sentence; advice: one or two.

    seeds: of each prompt that would decide what is open, None if seeds would not.
    """

    found: str
    advice: str
    seeds: int | None = None


def is_undecided(gate: Mapping[str, Any]) -> bool:
    """Return whether the gate was not passed although no check failed with certainty: too little was measured."""
    failed = _failed(gate)
    return bool(failed) and not any(check.get("decided", True) for check in failed)


def explain(gate: Mapping[str, Any]) -> Explanation:
    """Return what the gate found and what a person can do. gate: passed, checks."""
    failed, count = _failed(gate), len(gate["checks"])
    if gate["passed"]:
        return Explanation(
            f"It reached {pluralize(count, f'the limit,all {count} limits')} of the gate.",
            "Look at the new prompts below, then serve it.",
        )
    if is_undecided(gate):
        return _undecided(failed)
    surely = [check for check in failed if check.get("decided", True)]
    missed = "a limit" if len(surely) == 1 else f"{len(surely)} limits"
    is_costly = all(_measure(check)[0] in COSTS for check in surely)
    return Explanation(
        f"It did not reach {missed} of the gate: {_listed(surely)}.",
        "Its pictures are not the reason: serve it if you accept the cost, or discard it."
        if is_costly
        else "Continue its training, or discard it. Serve it only if the pictures below convince you.",
    )


def value_of(check: Mapping[str, Any], part: str) -> str:
    """Return found, low or limit of a check with its unit: "5.4 MB", "12 ms", "0.970" of a ratio; "–" for None."""
    measure, _ = _measure(check)
    if check[part] is None:
        return "–"
    if check["name"] == BETTER:
        return f"{check[part]:.0f}"
    if check["name"].endswith(ABSOLUTE) and measure in COSTS:
        return limits.shown("time" if measure == "seconds" else "size", check[part])
    return f"{check[part]:.3f}"


def table(checks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the checks for a page: `found`, `low` and `limit` as text."""
    return [{**check, **{part: value_of(check, part) for part in PARTS}} for check in checks]


def _undecided(failed: Sequence[Mapping[str, Any]]) -> Explanation:
    if [check["name"] for check in failed] == [BETTER]:
        return Explanation(
            f"{NO_BETTER}.",
            "Discard it, or serve it if the pictures below convince you; until then it stays a candidate.",
        )
    if any(check["name"] == QUALITY for check in failed):
        others = [check for check in failed if check["name"] != QUALITY]
        more = f" Besides: {_listed(others)}." if others else ""
        return Explanation(
            f"No judge measured whether the pictures show what they should, so the gate could not decide.{more}",
            "Compare it blindly, side by side, and serve it if you cannot tell which is worse; until then it stays a "
            "candidate. With a detector (manage.py detector train) the gate decides.",
        )
    wanted = [check.get("seeds_to_decide") for check in failed]
    seeds = max((count for count in wanted if count is not None), default=None)
    again = (
        ""
        if seeds is None
        else f" Measure it again with {seeds} seed{pluralize(seeds)} of each variant, or"
    )
    return Explanation(
        f"The gate could not decide: {_listed(failed)}.",
        f"Look at the pictures below.{again or ' Then'} decide by them. A canary measures it on real jobs without "
        "replacing the active release.",
        seeds,
    )


def _failed(gate: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [check for check in gate["checks"] if not check["passed"]]


def _listed(checks: Sequence[Mapping[str, Any]]) -> str:
    more = len(checks) - NAMED
    return "; ".join(map(_in_words, checks[:NAMED])) + (f"; and {more} more" if more > 0 else "")


def _measure(check: Mapping[str, Any]) -> tuple[str, str]:
    """Return (the measure, the release that the check compares with; "" if its name has another form)."""
    measure, _, other = check["name"].removesuffix(ABSOLUTE).partition(" to ")
    return measure, other


def _in_words(check: Mapping[str, Any]) -> str:
    measure, other = _measure(check)
    if check["name"].endswith(ABSOLUTE) and measure in COSTS:
        found, most = (value_of(check, part) for part in ("found", "limit"))
        return f"{MEASURES[measure]} is {found}, and at most {most} is allowed"
    if check["name"] == BETTER:
        return "it is not better than the active release anywhere"
    if measure not in MEASURES or other not in OTHERS or check["found"] is None:
        if check["name"] == "each variant" and check["detail"]:
            return f"single prompts got worse: {check['detail'].rstrip('.')}"
        return check["detail"].rstrip(".") or check["name"]
    name, found, limit = MEASURES[measure], check["found"], check["limit"]
    bound = "at most" if measure in COSTS else "at least"
    if measure in RATIOS:
        said = (
            f"{name} is {found:.0%} of that of {OTHERS[other]}, and {bound} {limit:.0%} is required"
        )
    else:
        said = f"{name} differs by {found:+.2f} from {OTHERS[other]}, and {bound} {limit:+.2f} is required"
    if check.get("decided", True):
        return said
    # An estimate that meets its limit, but not with certainty.
    certainly = " with certainty" if found >= limit else ""
    return f"{said}{certainly}" + (f" ({check['detail'].rstrip('.')})" if check["detail"] else "")
