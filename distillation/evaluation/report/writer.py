"""The report of an evaluation: the losses first, then the gains, then every number. Measures nothing."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from distillation.evaluation import noninferiority, results
from distillation.evaluation.pictures import Album
from distillation.evaluation.report import document, plots, sheets
from distillation.evaluation.report import number_format as form
from distillation.evaluation.results import Evaluation, Side
from distillation.resumable import atomic

TEMPLATE = document.TEMPLATES / "evaluation.j2"
TONES = {  # classes of the HTML
    noninferiority.NON_INFERIOR: "good",
    noninferiority.INFERIOR: "bad",
    noninferiority.INCONCLUSIVE: "open",
    noninferiority.NOT_MEASURED: "open",
}
MEASURES = {  # by field of Margins: the name in a sentence and the one in the table
    "attributes_right": ("attributes", "all attributes right, student ÷ teacher"),
    "worst_prompts": (
        "attributes of the worst prompts",
        "all attributes right, the tenth of prompts with the greatest losses, student − teacher",
    ),
    "each_prompt": (
        "single prompts",
        "all attributes right, the prompt with the greatest loss, student − teacher",
    ),
    "diversity": ("diversity", "diversity within a prompt, student ÷ teacher"),
    "clip_score": ("CLIP score", "CLIP score, student − teacher"),
    "sharpness": ("sharpness", "sharpness (mean gradient), student ÷ teacher"),
}
BUSY = 0.5  # of the cores
EQUAL = 0.01  # costs that differ by less are called equal


def write(
    evaluation: Evaluation,
    student: Album,
    teacher: Album,
    right: tuple[Tensor, Tensor] | None,
    folder: Path,
    *,
    new: Collection[str] = (),
) -> None:
    """Write report.md, report.html, the plots and the sheets.

    right: of student and teacher, [P, S]: 0 or 1 where a detector judged. new: slugs that the sheet shows first.
    """
    files = plots.draw(evaluation, folder)
    files |= sheets.draw(evaluation, student, teacher, right, folder, new=new)
    found = changes(evaluation)
    data = {
        "e": evaluation,
        "opening": opening(evaluation),
        "worse": found.worse,
        "better": found.better,
        "files": files,
        "tones": TONES,
        "measures": {measure: names[1] for measure, names in MEASURES.items()},
        "parts": plots.LABELS,
        "busy": BUSY,
        "confidence": f"{100 * (1 - noninferiority.TAIL):.0f}",
        "fewest": noninferiority.MIN_PROMPTS,
        "open": undecided(evaluation),
        "libraries": ", ".join(map(" ".join, evaluation.machine["libraries"].items())),
    }
    atomic.write_file(folder / "report.md", document.markdown(TEMPLATE, data))
    atomic.write_file(folder / "report.html", document.html(TEMPLATE, data, images=folder))


# --- sentences ------------------------------------------------------------------------------------
@dataclass
class Changes:
    """Sentences about the means. A measure that did not change is in neither list."""

    worse: list[str] = field(default_factory=list)
    better: list[str] = field(default_factory=list)

    def add(self, change: float, sentence: str) -> None:
        """change: above 0 is better."""
        if change:
            (self.worse if change < 0 else self.better).append(sentence)

    def add_cost(
        self,
        student: float,
        teacher: float,
        unit: Callable[..., str],
        sentence: str,
        words: tuple[str, str],
    ) -> None:
        """sentence: a format string for both costs; words: if the student costs less, if it costs more."""
        if abs(student / teacher - 1) > EQUAL:
            factor = form.times(max(student, teacher), min(student, teacher))
            costs = sentence.format(unit(student), unit(teacher))
            self.add(teacher - student, f"{costs}: {factor} {words[student > teacher]}.")


def opening(evaluation: Evaluation) -> str:
    """Return sentences on what was tested and the results, the worst outcome first."""
    seeds = form.count(evaluation.seeds_each, "fresh seed" if evaluation.fresh_from else "seed")
    sentences = [f"{form.count(evaluation.prompts, 'prompt')} with {seeds} each."]
    if not evaluation.verdicts:
        sentences.append("No margin was set, so nothing was tested.")
    for outcome in noninferiority.WORST_FIRST:
        names = [MEASURES[v.measure][0] for v in evaluation.verdicts if v.outcome == outcome]
        if names:
            sentences.append(f"{outcome.capitalize()}: {', '.join(names)}.")
    if evaluation.verdicts and evaluation.prompts < noninferiority.MIN_PROMPTS:
        sentences.append(f"Fewer than {noninferiority.MIN_PROMPTS} prompts decide nothing.")
    return " ".join(sentences)


def undecided(evaluation: Evaluation) -> list[str]:
    """Return a sentence for each inconclusive verdict: what would decide it."""
    found = []
    for verdict in evaluation.verdicts:
        if verdict.outcome != noninferiority.INCONCLUSIVE:
            continue
        name = MEASURES[verdict.measure][0].capitalize()
        decisive = noninferiority.decisive(verdict, evaluation.seeds_each)
        if verdict.measure == "each_prompt":
            found.append(
                f"{name}: “{_greatest_loss(evaluation)}” changed by {form.points(verdict.estimate or 0)} on "
                f"{form.count(evaluation.seeds_each, 'seed')}. Chance alone makes some such losses: the gate "
                "measures these prompts again with new seeds, and only that counts."
            )
        elif decisive is not None:
            found.append(
                f"{name}: about {decisive.seeds} seeds of each prompt instead of {evaluation.seeds_each} would "
                f"decide, as {decisive.outcome}, if the value stays."
            )
    return found


def _greatest_loss(evaluation: Evaluation) -> str:
    return evaluation.losers[0].text if evaluation.losers else ""


def changes(evaluation: Evaluation) -> Changes:
    """Return the changes of the means, whether or not a margin was reached."""
    found = Changes()
    right, score = evaluation.right.get(results.ALL), evaluation.clip_score
    if right:
        found.add(
            right.change,
            f"Attributes: all are right in {form.percent(right.student)} of its pictures, in "
            f"{form.percent(right.teacher)} of the teacher's: {form.points(right.change)}.",
        )
    lost = [prompt for prompt in evaluation.losers if prompt.right and prompt.right.change < 0]
    if lost and lost[0].right:
        found.worse.append(
            f"Prompts: {len(lost)} of {evaluation.prompts} have fewer right pictures than the teacher's. "
            f"“{lost[0].text}” loses most: {100 * lost[0].right.student:.0f} % of its pictures are right, "
            f"{100 * lost[0].right.teacher:.0f} % of the teacher's."
        )
    if evaluation.spread_ratio is not None:
        found.add(
            evaluation.spread_ratio - 1,
            f"Diversity: its pictures of one prompt differ {evaluation.spread_ratio:.2f} times as much as the "
            "teacher's.",
        )
    sharp = evaluation.sharpness
    if sharp.teacher.value:
        found.add(
            sharp.change,
            f"Sharpness: its mean gradient is {sharp.student.value / sharp.teacher.value:.2f} times the teacher's.",
        )
    if score:
        found.add(
            score.change,
            f"Likeness to the text: its CLIP score is {form.number(score.student, 2)}, the teacher's "
            f"{form.number(score.teacher, 2)}: {form.signed(score.change, 2)}.",
        )
    _add_costs(evaluation.student, evaluation.teacher, found)
    return found


def _add_costs(student: Side, teacher: Side, found: Changes) -> None:
    if student.speed and teacher.speed:
        found.add_cost(
            student.speed.seconds["total"].median,
            teacher.speed.seconds["total"].median,
            form.milliseconds,
            "Time: {} for one picture, the teacher {}",
            ("faster", "slower"),
        )
        found.add_cost(
            student.speed.memory.peak,
            teacher.speed.memory.peak,
            form.size,
            "Memory: the process takes at most {}, the teacher's {}",
            ("less", "more"),
        )
    found.add_cost(
        student.size_bytes,
        teacher.size_bytes,
        form.size,
        "Size: {} on disk, the teacher {}",
        ("smaller", "larger"),
    )
