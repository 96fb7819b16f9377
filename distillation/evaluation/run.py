"""The evaluation of a distilled release against its teacher."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from distillation.detector import network as detectors
from distillation.evaluation import (
    clip,
    figures,
    latency,
    machine,
    means,
    measured,
    noninferiority,
    pictures,
    real_pictures,
    results,
    scoring,
)
from distillation.evaluation.latency import Speed, SpeedRecipe
from distillation.evaluation.noninferiority import Margins
from distillation.evaluation.pictures import Album
from distillation.evaluation.prompts import Prompts
from distillation.evaluation.real_pictures import ToReal
from distillation.evaluation.report import writer as report
from distillation.evaluation.results import Evaluation
from distillation.evaluation.scoring import Judges
from distillation.evaluation.seeds import Seeds
from distillation.resumable import atomic


@dataclass(frozen=True)
class Inputs:
    """Inputs of an evaluation.

    student, teacher: release folders. seeds: of each prompt, used by both releases; use seeds that no training used.
    folder: where the results are written. detector: its folder, for `prompts.stated`. clip_name: a folder or the
    hub's name of a CLIPModel; tokenizer: a folder, for a CLIP whose own has none. real_pictures: a folder of images.
    margins, and each_prompt, the least change of the share of right pictures of any one prompt (None = not tested): set
    them before measuring. speed: None = neither time nor memory is measured. cache: where pictures are kept, None = in
    the folder; share one between several students to make the teacher's pictures only once. fresh_from: the name that
    the seeds were derived from, "" if all evaluations share them. core: seeds that all share, measured beside fresh
    ones; core_cache: where their pictures are kept. new: slugs that the sheets show first.
    """

    student: Path
    teacher: Path
    prompts: Prompts
    seeds: Seeds
    folder: Path
    detector: Path | None = None
    clip_name: Path | str | None = None
    tokenizer: Path | None = None
    real_pictures: Path | None = None
    margins: Margins = field(default_factory=Margins)
    each_prompt: float | None = None
    speed: SpeedRecipe | None = None
    cache: Path | None = None
    fresh_from: str = ""
    core: Seeds | None = None
    core_cache: Path | None = None
    device: str = "auto"
    new: tuple[str, ...] = ()

    def load_judges(self) -> Judges:
        return Judges(
            None if self.detector is None else detectors.load(self.detector),
            None if self.clip_name is None else clip.load(self.clip_name, tokenizer=self.tokenizer),
        )


def evaluate(inputs: Inputs, *, progress_bar: bool = True) -> Evaluation:
    """Measure the student against the teacher; write evaluation.json, measured.safetensors, report.md, report.html.

    An interrupted evaluation continues with the same call: pictures are kept.
    Raises ValueError for inputs that contradict each other, DetectorUnusable, SpeedNotMeasured, and the errors of the
    engine.
    """
    clock, where = machine.Clock(), machine.describe()
    judges = inputs.load_judges()
    inputs.folder.mkdir(parents=True, exist_ok=True)
    cache = inputs.cache or inputs.folder / "pictures"
    student, teacher = _albums(inputs, inputs.seeds, cache, clock, progress_bar=progress_bar)
    core = None
    if inputs.core is not None:
        cache = inputs.core_cache or cache
        ours, its = _albums(inputs, inputs.core, cache, clock, progress_bar=progress_bar)
        with clock.part("judging"):
            core = figures.core(
                scoring.judge(ours, its, inputs.prompts, judges, progress_bar=progress_bar)
            )
    with clock.part("judging"):
        judged = scoring.judge(student, teacher, inputs.prompts, judges, progress_bar=progress_bar)
        verdicts = noninferiority.judge(
            inputs.margins,
            right=judged.right,
            spread=judged.spread,
            clip_score=judged.clip_score,
            gradient=judged.gradient,
        )
        if inputs.each_prompt is not None and judged.right is not None:
            verdicts += (noninferiority.each_prompt(inputs.each_prompt, judged.right),)
        distances = figures.distances(judged)
        to_real: dict[str, ToReal] = {}
        if inputs.real_pictures is not None:
            albums = {"student": student, "teacher": teacher}
            to_real = real_pictures.compare(albums, inputs.real_pictures, progress_bar=progress_bar)
            if judges.clip is not None:
                real = scoring.features_of(
                    judges.clip, inputs.real_pictures, progress_bar=progress_bar
                )
                distances |= figures.to_real(judged, real)
    speeds: list[Speed | None] = [None, None]
    if inputs.speed is not None:
        with clock.part("speed"):
            speeds = [
                latency.measure(release, inputs.prompts, inputs.speed)
                for release in (inputs.student, inputs.teacher)
            ]
    evaluation = Evaluation(
        student=figures.side(student.manifest, speeds[0]),
        teacher=figures.side(teacher.manifest, speeds[1]),
        outcome=noninferiority.overall(verdicts),
        verdicts=verdicts,
        margins=inputs.margins,
        prompts=len(inputs.prompts),
        seeds_each=len(inputs.seeds[0]),
        fresh_from=inputs.fresh_from,
        core=core,
        right=figures.right(judged, judges),
        clip_score=means.both(judged.clip_score),
        spread=means.both(judged.spread),
        sharpness=means.both_of(judged.gradient),
        laplacian=means.both_of((judged.student.laplacian, judged.teacher.laplacian)),
        to_real=to_real,
        distance=means.over_prompts(judged.distance),
        psnr=means.over_prompts(judged.psnr),
        ssim=means.over_prompts(judged.ssim),
        distances=distances,
        texture=figures.textures(judged),
        maps_of=judges.maps_of,
        per_prompt=figures.per_prompt(inputs.prompts, inputs.seeds, judged),
        judges=figures.names(inputs.detector, judges),
        blind_to=figures.blind_to(verdicts, has_sets=bool(distances)),
        machine=where,
        seconds=clock.seconds,
    )
    measured.write(inputs.prompts.slugs, judged, inputs.folder)
    report.write(evaluation, student, teacher, judged.right, inputs.folder, new=inputs.new)
    text = json.dumps(results.as_json(evaluation), indent=2, ensure_ascii=False, allow_nan=False)
    atomic.write_file(inputs.folder / "evaluation.json", text + "\n")
    return evaluation


def _albums(
    inputs: Inputs, seeds: Seeds, cache: Path, clock: machine.Clock, *, progress_bar: bool
) -> tuple[Album, Album]:
    """Return the pictures of student and teacher of these seeds."""

    def made(name: str, release: Path) -> Album:
        title = f"pictures of the {name}"
        with clock.part(title):
            return pictures.make(
                release,
                inputs.prompts,
                seeds,
                cache=cache,
                device=inputs.device,
                title=title,
                progress_bar=progress_bar,
            )

    return made("student", inputs.student), made("teacher", inputs.teacher)
