"""Accuracy of a version of the detector on a labelled folder: by bit, by defect, and the good pictures rejected."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distillation.detector.judge import Judge, Judgement
from distillation.detector.labels import UNKNOWN, Labelled, Vocabulary
from distillation.detector.version import grouped
from distillation.evaluation.report import sheets
from distillation.resumable import atomic
from distillation.resumable.progress import Bar

BATCH = 64
SHOWN = 8  # pictures of a row of the sheet
JSON, SHEET = "trial.json", "trial.webp"


@dataclass(frozen=True)
class BitAccuracy:
    """Counts over the pictures for which the bit is known. found: by the rule of the judge."""

    bit: str
    threshold: float
    pictures: int
    with_it: int
    found: int
    right: int  # found and present

    @property
    def precision(self) -> float | None:
        return self.right / self.found if self.found else None

    @property
    def recall(self) -> float | None:
        return self.right / self.with_it if self.with_it else None


@dataclass(frozen=True)
class DefectAccuracy:
    """at_fault: how often each bit was the reason for a rejection."""

    defect: str
    pictures: int
    caught: int
    at_fault: dict[str, int]


@dataclass(frozen=True)
class Accuracy:
    """good: number of pictures without a defect; lost: the rejected ones among them."""

    detector: str
    bits: tuple[BitAccuracy, ...]
    defects: tuple[DefectAccuracy, ...]
    good: int
    lost: int
    lost_by: dict[str, int]
    judgements: tuple[Judgement, ...]

    @property
    def bad(self) -> int:
        return sum(row.pictures for row in self.defects)

    @property
    def caught(self) -> int:
        return sum(row.caught for row in self.defects)

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers that are stored with a version."""
        return {
            "good": self.good,
            "good_lost": self.lost,
            "lost_by": self.lost_by,
            "bad": self.bad,
            "bad_caught": self.caught,
            "defects": {
                row.defect: {
                    "pictures": row.pictures,
                    "caught": row.caught,
                    "at_fault": row.at_fault,
                }
                for row in self.defects
            },
            "bits": {
                row.bit: {
                    "precision": _rounded(row.precision),
                    "recall": _rounded(row.recall),
                    "threshold": _rounded(row.threshold),
                    "pictures": row.pictures,
                }
                for row in self.bits
            },
        }


def run(judge: Judge, labelled: Labelled, *, progress_bar: bool = True) -> Accuracy:
    """Judge every picture by its tags. Raises LabelsUnusable."""
    judgements: list[Judgement] = []
    parts = [labelled.only(labelled.rows[i : i + BATCH]) for i in range(0, len(labelled), BATCH)]
    bar = Bar(len(parts), title="judging", unit="batch", is_shown=progress_bar)
    for part in bar.over(parts):
        judgements += judge.judge(
            part.images(judge.image_size),
            present=[row.present for row in part.rows],
            absent=[row.absent for row in part.rows],
        )
    good = [one for row, one in zip(labelled.rows, judgements, strict=True) if not row.defect]
    lost = [one for one in good if not one.is_accepted]
    return Accuracy(
        detector=judge.name,
        bits=_of_bits(judge, labelled, judgements),
        defects=_of_defects(labelled, judgements),
        good=len(good),
        lost=len(lost),
        lost_by=_at_fault(lost),
        judgements=tuple(judgements),
    )


def text(accuracy: Accuracy) -> str:
    """Return the tables as plain text."""
    lines = [f"{'bit':<12} {'precision':>9} {'recall':>7} {'threshold':>9} {'pictures':>8}"]
    lines += [
        f"{row.bit:<12} {_percent(row.precision):>9} {_percent(row.recall):>7} "
        f"{row.threshold:>9.3f} {row.pictures:>8}"
        for row in accuracy.bits
    ]
    if accuracy.defects:
        lines += ["", f"{'defect':<14} {'caught':>12}   bits at fault"]
    for row in accuracy.defects:
        bits = ", ".join(f"{bit} {count}" for bit, count in list(row.at_fault.items())[:5])
        lines.append(f"{row.defect:<14} {_share(row.caught, row.pictures):>12}   {bits}")
    bits = ", ".join(f"{bit} {count}" for bit, count in accuracy.lost_by.items())
    lines += [
        "",
        f"bad caught  {_share(accuracy.caught, accuracy.bad)}",
        f"good lost   {_share(accuracy.lost, accuracy.good)}" + (f"   {bits}" if bits else ""),
    ]
    return "\n".join(lines)


def write(accuracy: Accuracy, labelled: Labelled, folder: Path, *, image_size: int) -> None:
    """Write trial.json with every judgement, and trial.webp with pictures caught, missed and lost."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    fields = {"detector": accuracy.detector, **accuracy.to_dict()}
    fields["pictures"] = [
        {
            "file": row.file,
            "defect": row.defect,
            "is_accepted": one.is_accepted,
            "failing": list(one.failing),
            "score": _rounded(one.score),
        }
        for row, one in zip(labelled.rows, accuracy.judgements, strict=True)
    ]
    atomic.write_file(folder / JSON, json.dumps(fields, indent=1, ensure_ascii=False) + "\n")
    if rows := _sheet(accuracy, labelled, image_size):
        atomic.make_file(folder / SHEET, lambda path: sheets.write(path, rows))


# --- counts ---------------------------------------------------------------------------------------
def _of_bits(
    judge: Judge, labelled: Labelled, judgements: Sequence[Judgement]
) -> tuple[BitAccuracy, ...]:
    vocabulary = Vocabulary(grouped(judge.bits, judge.groups), judge.required)
    truth = labelled.truth(vocabulary)
    # The attributes of a spoilt picture are unknown; only the required bits count.
    is_spoilt = torch.tensor([not row.lacks.isdisjoint(judge.required) for row in labelled.rows])
    attributes = torch.tensor([bit not in judge.required for bit in judge.bits])
    truth = truth.masked_fill(is_spoilt[:, None] & attributes, UNKNOWN)
    found = _found(judge, judgements)
    rows = []
    for number, bit in enumerate(judge.bits):
        known = truth[:, number] != UNKNOWN
        there, said = truth[known, number] > 0.5, found[known, number]
        rows.append(
            BitAccuracy(
                bit=bit,
                threshold=float(judge.thresholds[number]),
                pictures=int(known.sum()),
                with_it=int(there.sum()),
                found=int(said.sum()),
                right=int((said & there).sum()),
            )
        )
    return tuple(row for row in rows if row.pictures)


def _found(judge: Judge, judgements: Sequence[Judgement]) -> Tensor:
    """Return the bits found, bool [N, bits]: the most likely one of a group; a single bit by its threshold."""
    p = torch.tensor([list(one.probabilities.values()) for one in judgements])
    parts = []
    for values, cuts in zip(
        p.split(list(judge.groups), 1), judge.thresholds.split(list(judge.groups)), strict=True
    ):
        is_likeliest = values == values.amax(1, keepdim=True)
        parts.append(is_likeliest if values.shape[1] > 1 else values >= cuts)
    return torch.cat(parts, dim=1)


def _of_defects(labelled: Labelled, judgements: Sequence[Judgement]) -> tuple[DefectAccuracy, ...]:
    by_defect: dict[str, list[Judgement]] = {}
    for row, one in zip(labelled.rows, judgements, strict=True):
        if row.defect:
            by_defect.setdefault(row.defect, []).append(one)
    return tuple(
        DefectAccuracy(
            defect=defect,
            pictures=len(found),
            caught=sum(not one.is_accepted for one in found),
            at_fault=_at_fault(found),
        )
        for defect, found in by_defect.items()
    )


def _at_fault(judgements: Sequence[Judgement]) -> dict[str, int]:
    return dict(Counter(bit for one in judgements for bit in one.failing).most_common())


# --- the sheet ------------------------------------------------------------------------------------
def _sheet(accuracy: Accuracy, labelled: Labelled, size: int) -> list[sheets.Row]:
    """Return rows of the missed and the caught pictures of each defect, and of the good ones that were lost."""
    pairs = list(zip(labelled.rows, accuracy.judgements, strict=True))
    found = []
    for defect in ("", *(row.defect for row in accuracy.defects)):
        for is_accepted in (True, False):
            chosen = [
                (row, one)
                for row, one in pairs
                if row.defect == defect and one.is_accepted == is_accepted
            ]
            if not chosen or (not defect and is_accepted):
                continue
            word = "missed" if is_accepted else "caught" if defect else "lost"
            shown = chosen[:SHOWN]
            pictures = sheets.small(labelled.only([row for row, _ in shown]).images(size))
            found.append(
                sheets.Row(
                    title=f"{defect or 'good'}: {len(chosen)} {word}",
                    pictures=pictures,
                    captions=tuple(", ".join(one.failing) or "accepted" for _, one in shown),
                    alarming=frozenset(range(len(shown))) if word != "caught" else frozenset(),
                )
            )
    return found


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({100 * part / whole:.1f} %)" if whole else "–"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
