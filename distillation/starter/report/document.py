"""The text of docs/starter.md: figures as tables, with what was promised beside them. Measures nothing itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distillation.evaluation.distances import RESAMPLES, Distance, Interval
from distillation.evaluation.proportions import Share
from distillation.starter.report import measuring
from distillation.starter.report.measuring import BitVerdict, SweepPoint, Verdict
from distillation.starter.report.records import History
from distillation.starter.words import ATTRIBUTES, BITS


@dataclass(frozen=True)
class Figures:
    """All that was measured.

    detector: by "test", "held-out" and each with ", rebuilt"; clip: by "test", "held-out", "pictures, trained" and
    "pictures, held-out"; psnr: by "test", "held-out"; teacher: by "trained", "held-out"; distances: by their sets.
    """

    release: str
    device: str
    steps: int
    served_guidance: float
    best_guidance: float
    sweep: tuple[SweepPoint, ...]
    sweep_pictures: int
    detector: Mapping[str, BitVerdict]
    clip: Mapping[str, Verdict]
    psnr: Mapping[str, Interval]
    teacher: Mapping[str, BitVerdict]
    distances: Mapping[str, Distance]


@dataclass(frozen=True)
class Target:
    """One promise. value and least in the same unit."""

    what: str
    least: float
    value: float
    unit: str

    @property
    def is_met(self) -> bool:
        return self.value >= self.least


def targets(figures: Figures) -> list[Target]:
    test, rebuilt = figures.detector["test"], figures.detector["test, rebuilt"]
    word, lowest = min(test.balanced_accuracy.items(), key=lambda item: item[1])
    trained, held_out = (figures.teacher[name].all_four for name in ("trained", "held-out"))
    change = 100 * (rebuilt.bits_right - test.bits_right)
    return [
        Target("detector: bits right on test photographs", 97, 100 * test.bits_right, "%"),
        Target(f"detector: balanced accuracy of its worst bit ({word})", 93, 100 * lowest, "%"),
        Target("VAE: PSNR on test photographs", 32, figures.psnr["test"].value, "dB"),
        Target("VAE: change of the detector's bits right by reconstruction", -2, change, "points"),
        Target(
            "teacher: all four attributes right, trained combinations", 85, 100 * trained.value, "%"
        ),
        Target(
            "teacher: all four attributes right, held-out combinations",
            70,
            100 * held_out.value,
            "%",
        ),
    ]


def summary(figures: Figures) -> dict[str, Any]:
    """The chief numbers, for programs."""
    return {
        "release": figures.release,
        "steps": figures.steps,
        "guidance_scale": figures.best_guidance,
        "targets": [
            {
                "what": t.what,
                "least": t.least,
                "value": round(t.value, 4),
                "unit": t.unit,
                "met": t.is_met,
            }
            for t in targets(figures)
        ],
        "teacher": {
            name: {
                "all_four": _numbers(verdict.all_four),
                "strict": _numbers(verdict.strict),
                **{word: _numbers(share) for word, share in verdict.per_attribute.items()},
            }
            for name, verdict in figures.teacher.items()
        },
        "distances": {
            name: {"sizes": d.sizes, "kid_1000": list(d.kid), "cmmd": list(d.cmmd)}
            for name, d in figures.distances.items()
        },
    }


def text(figures: Figures, history: History) -> str:
    """The whole document, in Markdown; its pictures lie in `starter/` beside it."""
    sections = [
        _opening(figures),
        _sheets(),
        _judges(figures),
        _vae(figures),
        _guidance(figures),
        _teacher(figures),
        _distances(figures),
        _training(history),
    ]
    return "\n\n".join(section.strip() for section in sections) + "\n"


# --- sections -------------------------------------------------------------------------------------
def _opening(figures: Figures) -> str:
    rows = [
        [
            t.what,
            f"≥ {t.least:g} {t.unit}".replace("-", "−"),
            f"{t.value:.1f} {t.unit}".replace("-", "−"),
            "yes" if t.is_met else "**no**",
        ]
        for t in targets(figures)
    ]
    return f"""# The starter, measured

Written by `make starter-report`; do not edit. It measures the release `{figures.release}` in
`generation/starter/teacher`, through the engine that serves it, with the judges in `distillation/starter/judges`. All
photographs here are renders, 128 × 128, of seeds that no training saw. A held-out combination is one of the 80 of which
no training saw any photograph.

{_table(["figure", "wanted", "measured", "reached"], rows)}

Pictures are made with {figures.steps} steps of deterministic DDIM, spaced "trailing" (on {figures.device}). **All four
right**, the rule of the figures above, means: of the words of each attribute the one to which the detector gives the
highest probability is the one that was asked for. The **strict** rule asks that each of the 23 bits is as it should be
by its own threshold: the four that were asked for present, the other 19 absent. Intervals of shares are Wilson's at
95 %, over pictures. A picture is asked for by the first caption of its combination, as in the sheet below."""


def _sheets() -> str:
    return """## What it looks like

Eight prompts with the same eight seeds each; no picture was left out. The last two prompts are held out.

![Contact sheet](starter/sheet.webp)

The same combinations as photographs, through the VAE, and generated:

![Photographs, reconstructions and generated pictures](starter/side-by-side.webp)"""


def _judges(figures: Figures) -> str:
    columns = list(figures.detector)
    verdicts = list(figures.detector.values())
    rows = [
        ["bits right", *(f"{100 * v.bits_right:.2f} %" for v in verdicts)],
        ["all four right", *(_share(v.all_four) for v in verdicts)],
        ["strict", *(_share(v.strict) for v in verdicts)],
        ["calibration error", *(f"{100 * v.calibration_error:.2f} %" for v in verdicts)],
    ]
    rows += [
        [attribute, *(_share(v.per_attribute[attribute]) for v in verdicts)]
        for attribute in ATTRIBUTES
    ]
    accuracies = [v.balanced_accuracy for v in verdicts]
    bits = [
        [word, *(f"{100 * found[word]:.1f}" if word in found else "–" for found in accuracies)]
        for word in BITS
    ]
    clip_rows = [
        [attribute, *(_share(v.per_attribute[attribute]) for v in figures.clip.values())]
        for attribute in ATTRIBUTES
    ]
    clip_rows.append(["all four right", *(_share(v.all_four) for v in figures.clip.values())])
    return f"""## The judges

The detector, on photographs and on their reconstructions by the VAE ("rebuilt"). It never saw a reconstruction or a
generated picture in training. Calibration error: the mean distance of a probability from the frequency of its bit.

{_table(["detector", *columns], rows)}

Balanced accuracy of each bit, in per cent: the mean of the share of its presences that are seen and of its absences.

{_table(["bit", *columns], bits)}

Our CLIP, by texts alone ("zero-shot"): of the words of an attribute the one whose phrases, such as "something red", are
nearest to the picture. It is a second judge of the teacher's pictures, though not an independent one: the teacher reads
by its text encoder.

{_table(["CLIP", *figures.clip], clip_rows)}"""


def _vae(figures: Figures) -> str:
    rows = [
        [name, f"{psnr.value:.2f} dB ({psnr.low:.2f} to {psnr.high:.2f})"]
        for name, psnr in figures.psnr.items()
    ]
    return f"""## The VAE

The mean over photographs of the PSNR of each, with 1.96 standard errors. The detector's accuracy on the same
reconstructions is in the table above.

{_table(["photographs", "PSNR"], rows)}"""


def _guidance(figures: Figures) -> str:
    rows = [
        [f"{p.guidance_scale:g}", _share(p.all_four), _share(p.strict), _interval(p.kid, 2)]
        for p in figures.sweep
    ]
    served = (
        "The release is served with it."
        if figures.served_guidance == figures.best_guidance
        else f"The release is served with {figures.served_guidance:g}."
    )
    return f"""## Guidance

{figures.sweep_pictures} pictures at each scale, with the same prompts and seeds; the seeds occur nowhere else in this
report. Chosen is {figures.best_guidance:g}: the most pictures right in all four attributes, and of equals the nearest
to photographs. {served}

![Sweep of the guidance scale](starter/sweep.png)

{_table(["guidance scale", "all four right", "strict", "KID × 1000"], rows)}"""


def _teacher(figures: Figures) -> str:
    names = list(figures.teacher)
    verdicts = list(figures.teacher.values())
    rows = [["all four right", *(_share(v.all_four) for v in verdicts)]]
    rows.append(["strict", *(_share(v.strict) for v in verdicts)])
    rows += [
        [attribute, *(_share(v.per_attribute[attribute]) for v in verdicts)]
        for attribute in ATTRIBUTES
    ]
    both = measuring.joined(verdicts)
    confusions = [
        [
            c.attribute,
            c.asked,
            c.judged,
            f"{c.share.count} of {c.share.total} ({100 * c.share.value:.0f} %)",
        ]
        for attribute in ATTRIBUTES
        for c in measuring.worst_confusions(both, attribute)
    ]
    total = " and ".join(f"{v.all_four.total} of {name}" for name, v in figures.teacher.items())
    found = (
        _table(["attribute", "asked for", "seen", "of what was asked"], confusions)
        if confusions
        else "None: every word was seen where it was asked for."
    )
    return f"""## The teacher

{total} combinations, at guidance {figures.best_guidance:g}, one seed each.

{_table(["teacher", *names], rows)}

The worst confusions within each attribute, of both parts together:

{found}

![Confusions within each attribute](starter/confusions.png){_mistakes(verdicts)}"""


def _mistakes(verdicts: Sequence[BitVerdict]) -> str:
    if all(bool(verdict.right.all()) for verdict in verdicts):
        return ""
    return "\n\n![Pictures that are wrong](starter/mistakes.webp)"


def _distances(figures: Figures) -> str:
    rows = [
        [name, f"{d.sizes[0]}, {d.sizes[1]}", _interval(d.kid, 2), _interval(d.cmmd, 3)]
        for name, d in figures.distances.items()
    ]
    return f"""## Distance to photographs

On the image features of our CLIP, so the numbers compare only with each other. Both are the unbiased estimate of MMD²:
KID with the kernel (cos + 1)³, × 1000, and CMMD with a Gaussian of σ = 10 on features of length 1, × 1000; both may
come out below 0. The intervals are of a bootstrap over both sets ({RESAMPLES} resamples, 95 %). The pictures
are of the combinations of the photographs that stand in their place in the floor: both compare the same mixtures.

{_table(["sets", "sizes", "KID × 1000", "CMMD"], rows)}"""


def _training(history: History) -> str:
    minutes = [
        [time.stage, f"{time.seconds / 60:.1f}", _machine(time.machine)] for time in history.times
    ]
    total = sum(time.seconds for time in history.times) / 60
    curves = "\n\n".join(
        f"![Losses of the stage {stage}](starter/losses-{stage}.png)" for stage in history.curves
    )
    times = (
        _table(["stage", "minutes", "machine"], [*minutes, ["all", f"{total:.1f}", ""]])
        if minutes
        else "The history holds no times."
    )
    return f"""## Training

What each stage took, all sessions together:

{times}

The losses, as they were logged (grey) and their moving average. A resumed stage goes on in the same curve.

{curves or "The history holds no curves."}"""


# --- cells ----------------------------------------------------------------------------------------
def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _share(share: Share) -> str:
    low, high = share.interval
    return f"{100 * share.value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _interval(interval: Interval, digits: int) -> str:
    return f"{interval.value:.{digits}f} ({interval.low:.{digits}f} to {interval.high:.{digits}f})"


def _numbers(share: Share) -> dict[str, Any]:
    return {"count": share.count, "total": share.total, "interval": list(share.interval)}


def _machine(machine: Mapping[str, Any]) -> str:
    return ", ".join(str(value) for value in machine.values())
