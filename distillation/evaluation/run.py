"""The evaluation of a distilled release against its teacher."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from distillation.detector import network as detectors
from distillation.evaluation import (
    attributes,
    clip,
    latency,
    machine,
    means,
    measured,
    noninferiority,
    pictures,
    results,
    scoring,
)
from distillation.evaluation.distances import Distance, distance, paired_distance
from distillation.evaluation.latency import Speed, SpeedRecipe
from distillation.evaluation.noninferiority import Margins
from distillation.evaluation.pictures import Album
from distillation.evaluation.prompts import Prompts, Seeds
from distillation.evaluation.report import writer as report
from distillation.evaluation.results import Both, Evaluation, PromptResult, Side
from distillation.evaluation.scoring import Judges, Scores
from distillation.resumable import atomic
from generation.engine.release import ENCODER_FOLDERS, Manifest


@dataclass(frozen=True)
class Inputs:
    """What an evaluation compares, and by what.

    student, teacher: release folders. seeds: those of each prompt that both releases use; take ones that no training
    saw. folder: where the results are written. detector: its folder, for `prompts.stated`. clip_name: a folder or the
    hub's name of a CLIPModel; tokenizer: a folder, for a CLIP whose own has none. real_pictures: a folder of images.
    margins: set them before you look. speed: None = neither time nor memory is measured. cache: where pictures are
    kept, None = in the folder; share one between several students to make the teacher's pictures only once. new: slugs
    that the sheets show first.
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
    speed: SpeedRecipe | None = None
    cache: Path | None = None
    device: str = "auto"
    new: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.real_pictures is not None and self.clip_name is None:
            raise ValueError("real_pictures: they are compared by a CLIP; give one.")

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
    student, teacher = (
        _pictures(inputs, release, name, clock, progress_bar=progress_bar)
        for name, release in (("student", inputs.student), ("teacher", inputs.teacher))
    )
    with clock.part("judging"):
        judged = scoring.judge(student, teacher, inputs.prompts, judges, progress_bar=progress_bar)
        verdicts = noninferiority.judge(
            inputs.margins, right=judged.right, spread=judged.spread, clip_score=judged.clip_score
        )
        distances = _distances(judged)
        if inputs.real_pictures is not None and judges.clip is not None:
            real = scoring.features_of(judges.clip, inputs.real_pictures, progress_bar=progress_bar)
            distances |= _to_real(judged, real)
    speeds: list[Speed | None] = [None, None]
    if inputs.speed is not None:
        with clock.part("speed"):
            speeds = [
                latency.measure(release, inputs.prompts, inputs.speed)
                for release in (inputs.student, inputs.teacher)
            ]
    evaluation = Evaluation(
        student=_side(student.manifest, speeds[0]),
        teacher=_side(teacher.manifest, speeds[1]),
        outcome=noninferiority.overall(verdicts),
        verdicts=verdicts,
        margins=inputs.margins,
        prompts=len(inputs.prompts),
        seeds_each=len(inputs.seeds[0]),
        right=_right(judged, judges),
        clip_score=means.both(judged.clip_score),
        spread=means.both(judged.spread),
        distance=means.over_prompts(judged.distance),
        psnr=means.over_prompts(judged.psnr),
        ssim=means.over_prompts(judged.ssim),
        distances=distances,
        maps_of=judges.maps_of,
        per_prompt=_per_prompt(inputs.prompts, judged),
        judges=_names(inputs.detector, judges),
        machine=where,
        seconds=clock.seconds,
    )
    measured.write(inputs.prompts.slugs, judged, inputs.folder)
    report.write(evaluation, student, teacher, judged.right, inputs.folder, new=inputs.new)
    text = json.dumps(results.as_json(evaluation), indent=2, ensure_ascii=False, allow_nan=False)
    atomic.write_file(inputs.folder / "evaluation.json", text + "\n")
    return evaluation


def _pictures(
    inputs: Inputs, release: Path, name: str, clock: machine.Clock, *, progress_bar: bool
) -> Album:
    title = f"pictures of the {name}"
    with clock.part(title):
        return pictures.make(
            release,
            inputs.prompts,
            inputs.seeds,
            cache=inputs.cache or inputs.folder / "pictures",
            device=inputs.device,
            title=title,
            progress_bar=progress_bar,
        )


# --- from tensors to results ----------------------------------------------------------------------
def _right(judged: Scores, judges: Judges) -> dict[str, Both]:
    """Return the share of right pictures: of all attributes together, then of each group where it is stated."""
    everything = means.both(judged.right)
    student, teacher = judged.student.groups_right, judged.teacher.groups_right
    if judges.detector is None or judged.is_stated is None or everything is None:
        return {}
    if student is None or teacher is None:
        return {}
    found = {results.ALL: everything}
    config = judges.detector.config
    for column, name in enumerate(attributes.group_names(config.bits, config.groups)):
        rows = judged.is_stated[:, column]
        both = means.both((student[rows, :, column], teacher[rows, :, column]))
        if both is not None:
            found[name] = both
    return found


def _distances(judged: Scores) -> dict[str, Distance]:
    student, teacher = judged.student.features, judged.teacher.features
    if student is None or teacher is None or student.shape[0] * student.shape[1] < 2:
        return {}
    return {"the student's pictures to the teacher's": paired_distance(student, teacher)}


def _to_real(judged: Scores, real: Tensor) -> dict[str, Distance]:
    return {
        f"the {name}'s pictures to the real ones": distance(side.features.flatten(0, 1), real)
        for name, side in (("student", judged.student), ("teacher", judged.teacher))
        if side.features is not None
    }


def _per_prompt(prompts: Prompts, judged: Scores) -> tuple[PromptResult, ...]:
    count = len(prompts)
    right = means.pairs(judged.right, prompts=count)
    scores = means.pairs(judged.clip_score, prompts=count)
    spreads = means.pairs(judged.spread, prompts=count)
    return tuple(
        PromptResult(
            slug=prompts.slugs[row],
            text=prompts.texts[row],
            right=right[row],
            clip_score=scores[row],
            spread=spreads[row],
            distance=float(judged.distance[row].mean()),
            psnr=float(judged.psnr[row].mean()),
            ssim=float(judged.ssim[row].mean()),
        )
        for row in range(count)
    )


def _side(manifest: Manifest, speed: Speed | None) -> Side:
    return Side(
        name=manifest.name,
        kind=manifest.kind,
        steps=manifest.num_inference_steps,
        guidance_scale=manifest.guidance_scale,
        weights=manifest.quantization or manifest.weight_dtype,
        # The text encoder never comes to the device that generates.
        bytes_on_disk={
            name: size
            for name, size in latency.bytes_by_component(manifest).items()
            if name not in ENCODER_FOLDERS
        },
        speed=speed,
    )


def _names(detector: Path | None, judges: Judges) -> dict[str, str]:
    found = {} if detector is None else {"detector": detector.name}
    return found if judges.clip is None else {**found, "clip": judges.clip.name}
