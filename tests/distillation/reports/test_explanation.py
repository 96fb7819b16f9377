"""Explanation of a gate in a sentence, with what to do."""

import pytest

from distillation.evaluation.gate_limits import BETTER
from distillation.reports.explanation import explain, is_undecided, value_of


def check(name: str, *, passed: bool = False, **fields: object) -> dict[str, object]:
    return {"name": name, "passed": passed, "limit": 0.93, "found": 0.786, "low": 0.571,
            "detail": "", "decided": True} | fields  # fmt: skip


def gate(*checks: dict[str, object]) -> dict[str, object]:
    return {"passed": bool(checks) and all(row["passed"] for row in checks), "checks": list(checks)}


@pytest.mark.parametrize(
    ("found", "sentence", "advice"),
    [
        (gate(check("diversity to active", passed=True)), "It reached the limit of", "serve it"),
        (
            gate(*[check(name, passed=True) for name in ("diversity to active", "clip_score to active")]),
            "It reached all 2 limits of the gate.",
            "serve it",
        ),
        (
            gate(check("attributes_right to teacher")),
            "the share of pictures with everything right is 79% of that of the teacher, and at least 93% is required.",
            "Continue its training",
        ),
        (
            gate(check("clip_score to active", found=-2.5, limit=-0.5)),
            "the CLIP score differs by -2.50 from the active release, and at least -0.50 is required.",
            "Continue its training",
        ),
        (
            gate(check("seconds to active", found=2.0, limit=1.5, low=None)),
            "the time per picture is 200% of that of the active release, and at most 150% is required.",
            "accept the cost",
        ),
        (
            gate(check("diversity to active", found=0.95, limit=0.9, decided=False)),
            "at least 90% is required with certainty",
            "canary",
        ),
        (
            gate(check("diversity to active", detail="14 prompts are too few to decide.", decided=False)),
            "that of the active release, and at least 93% is required (14 prompts are too few to decide).",
            "Look at the pictures",
        ),
        (
            gate(check("worst_prompts to teacher", found=-0.068, limit=-0.1, decided=False, seeds_to_decide=19,
                       detail="4 seeds of each prompt are too few; about 19 would decide it, if the value stays.")),
            "differs by -0.07 from the teacher, and at least -0.10 is required with certainty (4 seeds of each prompt "
            "are too few; about 19 would decide it",
            "Measure it again with 19 seeds",
        ),
        (gate(check("quality", found=None, decided=False)), "No judge measured", "side by side"),
        (
            gate(check(BETTER, found=0.0, limit=1.0, low=None, decided=False)),
            "It is no worse than the active release, and not better anywhere.",
            "Discard it, or serve it",
        ),
        (
            gate(
                check("diversity to active", found=0.95, limit=0.9, decided=False),
                check(BETTER, found=0.0, limit=1.0, low=None, decided=False),
            ),
            "required with certainty; it is not better than the active release anywhere.",
            "canary",
        ),
        (
            gate(check("bytes at most", found=13.7e6, limit=12e6, low=None)),
            "the size on disk is 13.7 MB, and at most 12 MB is allowed.",
            "accept the cost",
        ),
        (
            gate(check("each variant", detail="2 lose: vase -0.80, mug -0.70.", low=None)),
            "single prompts got worse: 2 lose: vase -0.80, mug -0.70.",
            "Continue its training",
        ),
    ],
)  # fmt: skip
def test_a_gate_is_explained_in_a_sentence_with_advice(found, sentence, advice):
    explained = explain(found)
    assert sentence in explained.found and advice in explained.advice


def test_values_have_the_unit_of_what_is_measured():
    assert value_of(check("bytes at most", found=5_400_000), "found") == "5.4 MB"
    assert value_of(check("memory at most", limit=5e8), "limit") == "500 MB"
    assert value_of(check("seconds at most", found=0.0124), "found") == "12.4 ms"
    assert value_of(check("bytes to active", found=1.2), "found") == "1.200"
    assert value_of(check(BETTER, found=2.0), "found") == "2"
    assert value_of(check("quality", found=None), "found") == "–"


def test_without_a_judge_a_person_compares_pictures():
    found = explain(
        gate(
            check("quality", found=None, decided=False),
            check("diversity to teacher", decided=False),
        )
    )
    assert "Compare it blindly" in found.advice and "Besides: the diversity" in found.found


def test_a_certain_failure_is_named_before_a_missing_judge():
    found = explain(
        gate(check("quality", found=None, decided=False), check("sharpness to teacher"))
    )
    assert "the sharpness is 79%" in found.found and "blindly" not in found.advice


def test_only_a_gate_without_a_certain_failure_is_undecided():
    unsure = check("diversity to active", decided=False)
    assert is_undecided(gate(unsure))
    assert not is_undecided(gate(unsure, check("clip_score to active")))
    assert not is_undecided(gate(check("diversity to active", passed=True)))
    before = check("diversity to active")
    del before["decided"]  # of an older run, without this field
    assert not is_undecided(gate(before))
