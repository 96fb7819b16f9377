"""Changes by prompt if a release were served: the releases before and after, their quality, and the hard prompts.

Computed from stored quality and the rules of routing (`releases.default_release`). Imports no torch.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from generation.models import PromptVariant, Quality, Release
from generation.releases import default_release, quality
from generation.releases.default_release import Serving

MAX_ROWS = 100  # rows of a list: those that change most
MAX_TRIED = 5  # releases named at a hard prompt, the best first


def of(release: Release, *, is_specialist: bool) -> dict[str, Any]:
    """Return the changes if the student were served, as JSON values.

    changed, better, worse: numbers of active prompts whose share of right pictures, or kind of release, changes; rows:
    the largest of these changes, the worst first. hard, hard_rows: the prompts that no student in service would make
    well, and the students that were judged on them.
    """
    before = Serving.now()
    beside = tuple(row for row in before.specialists if row.pk != release.pk)
    after = (
        replace(before, specialists=(*beside, release))
        if is_specialist
        else replace(before, student=release, specialists=beside)
    )
    active = PromptVariant.objects.filter(status=PromptVariant.Status.ACTIVE).order_by("slug")
    earlier = {row.pk: row for row in before.annotated(active)}
    both = [(earlier[row.pk], row) for row in after.annotated(active) if row.pk in earlier]
    found = [pair for pair in both if _made(before, pair[0]) != _made(after, pair[1])]
    changes = {new.pk: _change(before, old, after, new) for old, new in found}
    found.sort(key=lambda pair: -abs(changes[pair[1].pk] or 0.0))
    shown = sorted(found[:MAX_ROWS], key=lambda pair: (_low(changes[pair[1].pk]), pair[1].slug))
    sides = (_sides(before, [old for old, _ in shown]), _sides(after, [new for _, new in shown]))
    is_hard = default_release.hard()
    hard = list(after.annotated(active).filter(is_hard).order_by("student_share", "slug"))
    return {
        "changed": len(found),
        "better": sum((change or 0.0) > 0 for change in changes.values()),
        "worse": sum((change or 0.0) < 0 for change in changes.values()),
        "rows": [
            {
                "slug": new.slug,
                "text": new.text,
                "before": sides[0][new.pk],
                "after": sides[1][new.pk],
            }
            for _, new in shown
        ],
        "hard": len(hard),
        "hard_rows": _tried(hard[:MAX_ROWS]),
    }


def _made(serving: Serving, variant: Any) -> tuple[str, float | None]:
    return variant.served_by, serving.share(variant)


def _change(before: Serving, old: Any, after: Serving, new: Any) -> float | None:
    """Return the change of the share of right pictures; None where one is not known."""
    shares = before.share(old), after.share(new)
    return None if shares[0] is None or shares[1] is None else shares[1] - shares[0]


def _low(change: float | None) -> float:
    """Return a sort key that puts unknown changes last."""
    return float("inf") if change is None else change


def _sides(serving: Serving, variants: Iterable[Any]) -> dict[int, dict[str, Any]]:
    """Return, by primary key, the release that makes each annotated variant, with the counts of judged pictures."""
    by_release: dict[Release | None, list[Any]] = defaultdict(list)
    for variant in variants:
        by_release[serving.release(variant)].append(variant)
    found = {}
    for release, rows in by_release.items():
        judged = (
            {} if release is None else quality.of(release, [row.normalized_text for row in rows])
        )
        for row in rows:
            of_text = judged.get(row.normalized_text)
            counts = (of_text.share.count, of_text.share.total) if of_text else (0, 0)
            found[row.pk] = _side(None if release is None else release.name, *counts)
    return found


def _side(release: str | None, right: int, judged: int) -> dict[str, Any]:
    return {"release": release, "right": right, "judged": judged}


def _tried(variants: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the hard variants, each with the students that were judged on it, the best first."""
    texts = [row.normalized_text for row in variants]
    judged = Quality.objects.filter(
        normalized_text__in=texts, release__kind=Release.Kind.STUDENT
    ).select_related("release")
    tried = defaultdict(list)
    for row in judged:
        right, total = row.evaluated_right + row.judged_right, row.evaluated + row.judged
        if total:
            tried[row.normalized_text].append(_side(row.release.name, right, total))
    return [
        {
            "slug": row.slug,
            "text": row.text,
            "tried": sorted(
                tried[row.normalized_text],
                key=lambda side: (-side["right"] / side["judged"], side["release"]),
            )[:MAX_TRIED],
        }
        for row in variants
    ]


def sentences(prompts: Mapping[str, Any] | None) -> str:
    """Return sentences on the result of `of`; "" if no prompt changes and none is hard."""
    if not prompts:
        return ""
    said = []
    if prompts["changed"]:
        known = [
            row for row in prompts["rows"] if row["before"]["judged"] and row["after"]["judged"]
        ]
        most = f", most of all {in_words(known[-1])}" if prompts["better"] and known else ""
        said.append(
            f"Of its prompts, {prompts['better']} would improve{most}; {prompts['worse']} would get worse."
        )
    if prompts["hard"]:
        are = "1 prompt is" if prompts["hard"] == 1 else f"{prompts['hard']} prompts are"
        said.append(f"{are} hard: no student makes {quality.limit():.0%} of the pictures right.")
    return " ".join(said)


def in_words(row: Mapping[str, Any]) -> str:
    """Return a row as text: the prompt, then the releases that make it before and after, with counts."""
    return f"{row['text']}: {side_in_words(row['before'])} → {side_in_words(row['after'])}"


def side_in_words(side: Mapping[str, Any]) -> str:
    if side["release"] is None:
        return "refused"
    counts = f"{side['right']} of {side['judged']}" if side["judged"] else "not judged"
    return f"{side['release']} ({counts})"
