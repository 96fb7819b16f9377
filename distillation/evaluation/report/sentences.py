"""What an evaluation says in sentences: the outcome, what is worse, what is better. Knows no table and no mark-up."""

from dataclasses import dataclass, field

from distillation.evaluation import noninferiority
from distillation.evaluation.figures import ALL, Evaluation, Side
from distillation.evaluation.report import number_format

NAMES = {  # of the fields of Margins
    "attributes_right": "attributes",
    "worst_prompts": "attributes of the worst prompts",
    "diversity": "diversity",
    "clip_score": "CLIP score",
}

CHANCE = 0.01  # costs that differ by less are called equal


@dataclass
class Changes:
    """Sentences of what the means say; a measure that did not change is in neither."""

    worse: list[str] = field(default_factory=list)
    better: list[str] = field(default_factory=list)

    def add(self, change: float, sentence: str) -> None:
        """change: above 0 is better."""
        if change:
            (self.worse if change < 0 else self.better).append(sentence)


def opening(evaluation: Evaluation) -> str:
    """What was tested and how it came out, the worst outcome first."""
    seeds = number_format.count(evaluation.seeds_each, "seed")
    sentences = [f"{number_format.count(evaluation.prompts, 'prompt')} with {seeds} each."]
    if not evaluation.verdicts:
        sentences.append("No margin was set, so nothing was tested.")
    for outcome in noninferiority.WORST_FIRST:
        names = [NAMES[v.measure] for v in evaluation.verdicts if v.outcome == outcome]
        if names:
            sentences.append(f"{outcome.capitalize()}: {', '.join(names)}.")
    if evaluation.verdicts and evaluation.prompts < noninferiority.FEWEST:
        sentences.append(f"Fewer than {noninferiority.FEWEST} prompts decide nothing.")
    return " ".join(sentences)


def changes(evaluation: Evaluation) -> Changes:
    """By the means alone, whether or not a margin was kept."""
    found = Changes()
    right, score, ratio = (
        evaluation.right.get(ALL),
        evaluation.clip_score,
        evaluation.spread_ratio,
    )
    if right:
        found.add(
            right.change,
            f"Attributes: all are right in {number_format.percent(right.student)} of its pictures, in "
            f"{number_format.percent(right.teacher)} of the teacher's: {number_format.points(right.change)}.",
        )
        _prompts(evaluation, found)
    if ratio is not None:
        found.add(
            ratio - 1,
            f"Diversity: its pictures of one prompt differ {ratio:.2f} times as much as the teacher's.",
        )
    if score:
        found.add(
            score.change,
            f"Likeness to the text: its CLIP score is {number_format.number(score.student, 2)}, the teacher's "
            f"{number_format.number(score.teacher, 2)}: {number_format.signed(score.change, 2)}.",
        )
    _costs(evaluation.student, evaluation.teacher, found)
    return found


def _prompts(evaluation: Evaluation, found: Changes) -> None:
    lost = [prompt for prompt in evaluation.losers if prompt.right and prompt.right.change < 0]
    if lost and lost[0].right:
        first, pair = lost[0], lost[0].right
        found.worse.append(
            f"Prompts: {len(lost)} of {evaluation.prompts} have fewer right pictures than the teacher's. "
            f"“{first.text}” loses most: {100 * pair.student:.0f} % of its pictures are right, "
            f"{100 * pair.teacher:.0f} % of the teacher's."
        )


def _costs(student: Side, teacher: Side, found: Changes) -> None:
    def add(mine: float, its: float, sentence: str, words: tuple[str, str]) -> None:
        if abs(mine / its - 1) > CHANCE:
            factor = number_format.times(max(mine, its), min(mine, its))
            found.add(its - mine, f"{sentence}: {factor} {words[mine > its]}.")

    if student.speed and teacher.speed:
        mine, its = (speed.seconds["total"].median for speed in (student.speed, teacher.speed))
        both = number_format.milliseconds(mine), number_format.milliseconds(its)
        add(
            mine,
            its,
            f"Time: {both[0]} for one picture, the teacher {both[1]}",
            ("faster", "slower"),
        )
        mine, its = (float(speed.memory.peak) for speed in (student.speed, teacher.speed))
        both = (
            number_format.size(student.speed.memory.peak),
            number_format.size(teacher.speed.memory.peak),
        )
        sentence = f"Memory: the process takes at most {both[0]}, the teacher's {both[1]}"
        add(mine, its, sentence, ("less", "more"))
    both = number_format.size(student.size_bytes), number_format.size(teacher.size_bytes)
    sentence = f"Size: {both[0]} on disk, the teacher {both[1]}"
    add(student.size_bytes, teacher.size_bytes, sentence, ("smaller", "larger"))
