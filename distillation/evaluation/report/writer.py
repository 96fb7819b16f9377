"""The report of an evaluation: what is worse first, then what is better, then every number. Measures nothing."""

from collections.abc import Mapping, Sequence

from distillation.evaluation import noninferiority
from distillation.evaluation.figures import Evaluation, OfPrompt, Pair, Side
from distillation.evaluation.latency import PARTS, Speed
from distillation.evaluation.noninferiority import TAIL, Verdict
from distillation.evaluation.report import number_format, sentences
from distillation.evaluation.report.document import (
    Badge,
    Block,
    Bullets,
    Document,
    Folded,
    Heading,
    Paragraph,
    Picture,
    Table,
)

TONES = {
    noninferiority.NON_INFERIOR: "good",
    noninferiority.INFERIOR: "bad",
    noninferiority.INCONCLUSIVE: "open",
    noninferiority.NOT_MEASURED: "open",
}
MEASURES = {  # fields of Margins
    "attributes_right": "all attributes right, student ÷ teacher",
    "worst_prompts": "all attributes right, the tenth of prompts that lose most, student − teacher",
    "diversity": "diversity within a prompt, student ÷ teacher",
    "clip_score": "CLIP score, student − teacher",
}
PARTS_IN_WORDS = {
    "total": "whole picture",
    "unet": "U-Net",
    "decoder": "decoder",
    "file": "encoding the file",
}
NAMED = 10  # prompts that lost most
BUSY = 0.5  # of the cores

OF_MARGINS = (
    f"Low and high each end a one-sided {100 * (1 - TAIL):.0f} % interval, of a bootstrap that draws prompts. "
    "Non-inferior: low reaches the margin. Inferior: high does not. Else inconclusive: more prompts or seeds may "
    f"decide. "
    f"Fewer than {noninferiority.FEWEST} prompts never do. The prompts that lose most are chosen by one half of the "
    "seeds and measured by the other."
)
OF_ATTRIBUTES = (
    "By the detector: of a group of words the likeliest is the one that the prompt states. Intervals here and below "
    "are of 95 %, by a bootstrap that draws prompts."
)
OF_LIKENESS = (
    "Of the pictures of the same prompt and noise. At a share of 1 the student's picture is no nearer to the teacher's "
    "than another of the teacher's own."
)
OF_SETS = (
    "Between sets, on image features of the CLIP: KID with the kernel (cos + 1)³, × 1000, and CMMD. Both are 0 on "
    "average for equal distributions, so they may come out below; numbers of two CLIPs do not compare. Between student "
    "and teacher no picture is compared with that of its own noise."
)
OF_LOAD = (
    "The machine was busy with other work when the evaluation began: these times are too long."
)


def document(evaluation: Evaluation, drawn: Mapping[str, str]) -> Document:
    """drawn: files of plots and sheets, by name."""
    found = sentences.changes(evaluation)
    badge = Badge(evaluation.outcome, TONES[evaluation.outcome])
    blocks: list[Block] = [Paragraph(sentences.opening(evaluation), badge)]
    blocks += _list("What is worse", found.worse)
    blocks += _list("What is better", found.better)
    if "sheet" in drawn:
        blocks.append(Heading("The same prompts and noise"))
        caption = (
            "Left the teacher, right the student. Prompts are spread evenly; nothing was chosen."
        )
        blocks.append(Picture(drawn["sheet"], caption))
    if "worst" in drawn:
        caption = "The prompts that lost most. Left the teacher, right the student."
        blocks.append(Picture(drawn["worst"], caption))
    blocks += _verdicts(evaluation.verdicts)
    blocks += _attributes(evaluation, drawn)
    blocks += _diversity(evaluation, drawn)
    blocks += _likeness(evaluation)
    blocks += _costs(evaluation, drawn)
    blocks += _prompts(evaluation)
    blocks += _how(evaluation)
    return Document(f"{evaluation.student.name} against {evaluation.teacher.name}", tuple(blocks))


# --- sections -------------------------------------------------------------------------------------
def _list(title: str, items: Sequence[str]) -> list[Block]:
    if not items:
        return [Heading(title), Paragraph("Nothing that was measured.")]
    return [Heading(title), Bullets(tuple(items))]


def _verdicts(found: Sequence[Verdict]) -> list[Block]:
    if not found:
        return []
    rows = [
        (
            MEASURES[verdict.measure],
            number_format.of_verdict(verdict, verdict.margin),
            number_format.of_verdict(verdict, verdict.estimate),
            number_format.of_verdict(verdict, verdict.low),
            number_format.of_verdict(verdict, verdict.high),
            str(verdict.prompts),
            Badge(verdict.outcome, TONES[verdict.outcome]),
        )
        for verdict in found
    ]
    heads = ("measure", "at least", "measured", "low", "high", "prompts", "verdict")
    return [
        Heading("Against the margins"),
        Table(heads, tuple(rows)),
        Paragraph(OF_MARGINS),
    ]


def _attributes(evaluation: Evaluation, drawn: Mapping[str, str]) -> list[Block]:
    if not evaluation.right:
        return []
    rows = [
        (
            name,
            number_format.percent(both.student),
            number_format.percent(both.teacher),
            number_format.points(both.change),
        )
        for name, both in evaluation.right.items()
    ]
    blocks: list[Block] = [
        Heading("Attributes"),
        Table(("right in the pictures", "student", "teacher", "change"), tuple(rows)),
        Paragraph(OF_ATTRIBUTES),
    ]
    return blocks + _plot(drawn, "attributes", "Pictures with all attributes right, by prompt.")


def _diversity(evaluation: Evaluation, drawn: Mapping[str, str]) -> list[Block]:
    both, ratio = evaluation.spread, evaluation.spread_ratio
    if both is None or ratio is None:
        return []
    blocks: list[Block] = [
        Heading("Diversity within a prompt"),
        Paragraph(
            f"The mean distance between two pictures of one prompt is {number_format.number(both.student, 4)} for the "
            f"student and {number_format.number(both.teacher, 4)} for the teacher: "
            f"{ratio:.2f} times as much. Far below 1 "
            "the student makes the same picture again and again. The distance is that of LPIPS without its fitted "
            f"weights, on the maps of {evaluation.maps_of}: 0 is equal."
        ),
    ]
    caption = "Diversity of each prompt, as a share of the teacher's."
    return blocks + _plot(drawn, "diversity", caption)


def _likeness(evaluation: Evaluation) -> list[Block]:
    rows = [("distance", number_format.number(evaluation.distance, 4))]
    if evaluation.spread and evaluation.spread.teacher.value:
        share = evaluation.distance.value / evaluation.spread.teacher.value
        rows.append(("distance ÷ that of two pictures of the teacher", f"{share:.2f}"))
    rows.append(("PSNR", f"{number_format.number(evaluation.psnr, 2)} dB"))
    rows.append(("SSIM", number_format.number(evaluation.ssim, 3)))
    blocks: list[Block] = [
        Heading("Likeness to the teacher"),
        Paragraph(OF_LIKENESS),
        Table(("between student and teacher", "mean"), tuple(rows)),
    ]
    if evaluation.distances:
        sets = [
            (
                name,
                f"{found.sizes[0]}, {found.sizes[1]}",
                number_format.number(found.kid, 2),
                number_format.number(found.cmmd, 3),
            )
            for name, found in evaluation.distances.items()
        ]
        blocks += [
            Paragraph(OF_SETS),
            Table(("sets", "pictures", "KID × 1000", "CMMD"), tuple(sets)),
        ]
    return blocks


def _costs(evaluation: Evaluation, drawn: Mapping[str, str]) -> list[Block]:
    sides = (evaluation.student, evaluation.teacher)
    blocks: list[Block] = [Heading("Time, memory and size")]
    if evaluation.student.speed and evaluation.teacher.speed:
        speeds = (evaluation.student.speed, evaluation.teacher.speed)
        rows = [
            (
                f"{PARTS_IN_WORDS[part]}, median (95th percentile)",
                *(_part(speed, part) for speed in speeds),
            )
            for part in PARTS
        ]
        rows += [
            (
                f"pictures a second, {size} at once",
                *(f"{speed.images_per_second[size]:.3g}" for speed in speeds),
            )
            for size in speeds[0].images_per_second
        ]
        rows += [
            (name, *(number_format.size(getattr(speed.memory, part)) for speed in speeds))
            for name, part in (
                ("memory with the libraries alone", "libraries"),
                ("memory with the release loaded", "loaded"),
                ("memory after its pictures", "settled"),
                ("memory at most", "peak"),
            )
        ]
        if any(speed.memory.device_peak for speed in speeds):
            peaks = (number_format.size(speed.memory.device_peak) for speed in speeds)
            rows.append(("memory of the GPU at most", *peaks))
        blocks += [
            Table(("one picture at a time", "student", "teacher"), tuple(rows)),
            Paragraph(
                f"Each in a fresh process, {speeds[0].calls} pictures one after another, on {speeds[0].device}. "
                "Memory is what the process has resident, without batches."
            ),
        ]
        if evaluation.machine["load"] > BUSY * evaluation.machine["cores"]:
            blocks.append(Paragraph(OF_LOAD))
        blocks += _plot(drawn, "speed", "Time for one picture, by part.")
    names = dict.fromkeys(name for side in sides for name in side.bytes_on_disk)
    sizes = [
        (
            name,
            *(
                number_format.size(s.bytes_on_disk[name]) if name in s.bytes_on_disk else "–"
                for s in sides
            ),
        )
        for name in names
    ]
    sizes.append(("all", *(number_format.size(side.size_bytes) for side in sides)))
    blocks.append(Table(("on disk, without the text encoder", "student", "teacher"), tuple(sizes)))
    return blocks


def _prompts(evaluation: Evaluation) -> list[Block]:
    lost = evaluation.losers[:NAMED]
    blocks: list[Block] = [Heading("Prompts")]
    if lost:
        blocks.append(Paragraph("Those that lost most:"))
        blocks.append(_of_prompts(lost))
    blocks.append(Folded("Every prompt", _of_prompts(evaluation.per_prompt)))
    return blocks


def _how(evaluation: Evaluation) -> list[Block]:
    rows = [
        (name, _release(side))
        for name, side in (("student", evaluation.student), ("teacher", evaluation.teacher))
    ]
    machine = evaluation.machine
    libraries = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())
    rows += [(name, value) for name, value in evaluation.judges.items()]
    processor = f"{machine['processor']}, {machine['cores']} cores, load {machine['load']:g}"
    rows.append(("processor", f"{processor} when the evaluation began"))
    if machine["gpu"]:
        rows.append(("gpu", machine["gpu"]))
    rows.append(("libraries", f"Python {machine['python']}, {libraries}"))
    rows += [
        (part, number_format.duration(seconds)) for part, seconds in evaluation.seconds.items()
    ]
    return [Heading("How it was measured"), Table(("", ""), tuple(rows))]


# --- parts of sections ----------------------------------------------------------------------------
def _release(side: Side) -> str:
    steps = number_format.count(side.steps, "step")
    return f"{side.name}: {steps}, guidance {side.guidance_scale:g}, weights in {side.weights}"


def _plot(drawn: Mapping[str, str], name: str, caption: str) -> list[Block]:
    return [Picture(drawn[name], caption)] if name in drawn else []


def _part(speed: Speed, part: str) -> str:
    seconds = speed.seconds[part]
    return (
        f"{number_format.milliseconds(seconds.median)} ({number_format.milliseconds(seconds.p95)})"
    )


def _of_prompts(prompts: Sequence[OfPrompt]) -> Table:
    def pair(values: Pair | None, form: str, scale: float = 1.0) -> str:
        if values is None:
            return "–"
        return " ← ".join(f"{scale * v:{form}}" for v in (values.student, values.teacher))

    rows = [
        (
            prompt.slug,
            prompt.text,
            pair(prompt.right, ".0f", 100),
            pair(prompt.clip_score, ".1f"),
            pair(prompt.spread, ".3f"),
            f"{prompt.distance:.3f}",
        )
        for prompt in prompts
    ]
    heads = (
        "prompt",
        "text",
        "right, % (student ← teacher)",
        "CLIP score",
        "diversity",
        "distance",
    )
    return Table(heads, tuple(rows))
