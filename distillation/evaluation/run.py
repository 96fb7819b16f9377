"""The evaluation of a distilled release against its teacher, as named steps. Knows no database and no training.

Pictures are kept, so that an interrupted evaluation goes on with the same call.
"""

import json
from pathlib import Path

from torch import Tensor

from distillation.detector import network as detectors
from distillation.evaluation import (
    attributes,
    clip,
    figures,
    latency,
    machine,
    means,
    measured,
    noninferiority,
    pictures,
    scoring,
)
from distillation.evaluation.distances import Distance, distance, paired_distance
from distillation.evaluation.figures import Both, Evaluation, OfPrompt, Side
from distillation.evaluation.latency import Speed, SpeedRecipe
from distillation.evaluation.noninferiority import Margins
from distillation.evaluation.prompts import Prompts, Seeds
from distillation.evaluation.report import gallery, plots
from distillation.evaluation.report import writer as report
from distillation.evaluation.scoring import Judged, Judges
from distillation.resumable import atomic
from generation.engine.release import ENCODER_FOLDERS, Manifest


def evaluate(
    student: Path,
    teacher: Path,
    prompts: Prompts,
    seeds: Seeds,
    *,
    folder: Path,
    detector: Path | None = None,
    clip_name: Path | str | None = None,
    tokenizer: Path | None = None,
    real_pictures: Path | None = None,
    margins: Margins | None = None,
    speed: SpeedRecipe | None = None,
    cache: Path | None = None,
    device: str = "auto",
    progress_bar: bool = True,
) -> Evaluation:
    """Measure the student against the teacher: evaluation.json, measured.safetensors, report.md,
    report.html and their pictures in `folder`.

    student, teacher: release folders. seeds: of each prompt those that both releases use; take ones that no training
    saw. detector: its folder, for `prompts.stated`. clip_name: a folder or the hub's name of a CLIPModel; tokenizer: a
    folder, for a CLIP whose own has none. real_pictures: a folder of images. margins: None = the defaults of `Margins`;
    set them before you look. speed: None = neither time nor memory is measured. cache: where pictures are kept, None =
    in the folder; the same one for several students makes the teacher's only once.
    Raises ValueError for arguments that contradict each other, DetectorUnusable, SpeedNotMeasured, and what the engine
    raises.
    """
    margins = margins or Margins()
    clock = machine.Clock()
    where = machine.describe()
    judges = Judges(
        None if detector is None else detectors.load(detector),
        None if clip_name is None else clip.load(clip_name, tokenizer=tokenizer),
    )
    if real_pictures is not None and judges.clip is None:
        raise ValueError("real_pictures: they are compared by a CLIP; give one.")

    folder.mkdir(parents=True, exist_ok=True)
    albums = []
    for title, release in (("student", student), ("teacher", teacher)):
        with clock.part(f"pictures of the {title}"):
            album = pictures.make(
                release,
                prompts,
                seeds,
                cache=cache or folder / "pictures",
                device=device,
                title=f"pictures of the {title}",
                progress_bar=progress_bar,
            )
        albums.append(album)
    of_student, of_teacher = albums

    with clock.part("judging"):
        judged = scoring.judge(of_student, of_teacher, prompts, judges, progress_bar=progress_bar)
        spread = judged.student.spread, judged.teacher.spread
        found = noninferiority.judge(
            margins, right=judged.right, spread=spread, clip_score=judged.clip_score
        )
        distances = _distances(judged)
        if real_pictures is not None and judges.clip is not None:
            real = scoring.features_of(judges.clip, real_pictures, progress_bar=progress_bar)
            distances |= _to_real(judged, real)

    speeds: list[Speed | None] = [None, None]
    if speed is not None:
        with clock.part("speed"):
            speeds = [latency.measure(release, prompts, speed) for release in (student, teacher)]

    evaluation = Evaluation(
        student=_side(of_student.manifest, speeds[0]),
        teacher=_side(of_teacher.manifest, speeds[1]),
        outcome=noninferiority.overall(found),
        verdicts=found,
        margins=margins,
        prompts=len(prompts),
        seeds_each=len(seeds[0]),
        right=_right(judged, judges),
        clip_score=means.both(judged.clip_score),
        spread=means.both(spread),
        distance=means.over_prompts(judged.distance),
        psnr=means.over_prompts(judged.psnr),
        ssim=means.over_prompts(judged.ssim),
        distances=distances,
        maps_of=judges.maps_of,
        per_prompt=_per_prompt(prompts, judged),
        judges=_names(detector, judges),
        machine=where,
        seconds=clock.seconds,
    )

    measured.write(prompts.slugs, judged, folder)
    drawn = plots.draw(evaluation, folder)
    drawn |= gallery.draw(evaluation, of_student, of_teacher, judged.right, folder)
    document = report.document(evaluation, drawn)
    atomic.write_file(folder / "report.md", document.markdown())
    atomic.write_file(folder / "report.html", document.html(folder))
    text = json.dumps(figures.as_json(evaluation), indent=2, ensure_ascii=False, allow_nan=False)
    atomic.write_file(folder / "evaluation.json", text + "\n")
    return evaluation


# --- from tensors to figures ----------------------------------------------------------------------
def _right(judged: Judged, judges: Judges) -> dict[str, Both]:
    """Of all attributes together, then of each group, where it is stated."""
    everything = means.both(judged.right)
    student, teacher = judged.student.groups_right, judged.teacher.groups_right
    if judges.detector is None or judged.is_stated is None or everything is None:
        return {}
    if student is None or teacher is None:
        return {}
    found = {figures.ALL: everything}
    config = judges.detector.config
    for column, name in enumerate(attributes.group_names(config.bits, config.groups)):
        rows = judged.is_stated[:, column]
        both = means.both((student[rows, :, column], teacher[rows, :, column]))
        if both is not None:
            found[name] = both
    return found


def _distances(judged: Judged) -> dict[str, Distance]:
    student, teacher = judged.student.features, judged.teacher.features
    if student is None or teacher is None or student.shape[0] * student.shape[1] < 2:
        return {}
    return {"the student's pictures to the teacher's": paired_distance(student, teacher)}


def _to_real(judged: Judged, real: Tensor) -> dict[str, Distance]:
    return {
        f"the {name}'s pictures to the real ones": distance(side.features.flatten(0, 1), real)
        for name, side in (("student", judged.student), ("teacher", judged.teacher))
        if side.features is not None
    }


def _per_prompt(prompts: Prompts, judged: Judged) -> tuple[OfPrompt, ...]:
    count = len(prompts)
    right = means.pairs(judged.right, prompts=count)
    scores = means.pairs(judged.clip_score, prompts=count)
    spreads = means.pairs((judged.student.spread, judged.teacher.spread), prompts=count)
    return tuple(
        OfPrompt(
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
