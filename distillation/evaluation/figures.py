"""Figures of an evaluation, from the scores of the pictures of both releases."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from distillation.evaluation import attributes, blind_spots, latency, means, noninferiority, results
from distillation.evaluation.latency import Speed
from distillation.evaluation.noninferiority import Verdict
from distillation.evaluation.prompts import Prompts
from distillation.evaluation.results import Both, Core, PromptResult, Side
from distillation.evaluation.scoring import Judges, Scores
from distillation.evaluation.seeds import Seeds
from distillation.image_metrics import texture
from distillation.image_metrics.distances import Distance, Interval, distance, paired_distance
from generation.engine.release import ENCODER_FOLDERS, Manifest


def right(judged: Scores, judges: Judges) -> dict[str, Both]:
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


def distances(judged: Scores) -> dict[str, Distance]:
    """Return KID and CMMD by their sets; empty without a CLIP."""
    student, teacher = judged.student.features, judged.teacher.features
    if student is None or teacher is None or student.shape[0] * student.shape[1] < 2:
        return {}
    return {"the student's pictures to the teacher's": paired_distance(student, teacher)}


def to_real(judged: Scores, real: Tensor) -> dict[str, Distance]:
    """Return KID and CMMD to real pictures; empty for a single picture. real: their features."""
    return {
        f"the {name}'s pictures to the real ones": distance(side.features.flatten(0, 1), real)
        for name, side in (("student", judged.student), ("teacher", judged.teacher))
        if side.features is not None and side.features.shape[0] * side.features.shape[1] > 1
    }


def textures(judged: Scores) -> Interval | None:
    """Return the distance of texture between both sets; None for tiny pictures, or a single one."""
    student, teacher = judged.student.textures, judged.teacher.textures
    if student is None or teacher is None or student.shape[0] * student.shape[1] < 2:
        return None
    return texture.paired_distance(student, teacher)


def core(judged: Scores) -> Core:
    """Return the measures on the seeds that all evaluations share."""
    return Core(
        seeds_each=judged.distance.shape[1],
        right=means.both(judged.right),
        clip_score=means.both(judged.clip_score),
        spread=means.both(judged.spread),
        sharpness=means.both_of(judged.gradient),
    )


def per_prompt(prompts: Prompts, seeds: Seeds, judged: Scores) -> tuple[PromptResult, ...]:
    """Return the means of each prompt."""
    count = len(prompts)
    right = means.pairs(judged.right, prompts=count)
    scores = means.pairs(judged.clip_score, prompts=count)
    spreads = means.pairs(judged.spread, prompts=count)
    gradients = means.pairs(judged.gradient, prompts=count)
    return tuple(
        PromptResult(
            slug=prompts.slugs[row],
            text=prompts.texts[row],
            seeds=seeds[row],
            right=right[row],
            clip_score=scores[row],
            spread=spreads[row],
            sharpness=gradients[row],
            distance=float(judged.distance[row].mean()),
            psnr=float(judged.psnr[row].mean()),
            ssim=float(judged.ssim[row].mean()),
        )
        for row in range(count)
    )


def side(manifest: Manifest, speed: Speed | None) -> Side:
    """Return a release with its costs."""
    return Side(
        name=manifest.name,
        kind=manifest.kind,
        steps=manifest.num_inference_steps,
        guidance_scale=manifest.guidance_scale,
        weights=manifest.quantization or manifest.weight_dtype,
        # The text encoder is never loaded onto the generating device.
        bytes_on_disk={
            name: size
            for name, size in latency.bytes_by_component(manifest).items()
            if name not in ENCODER_FOLDERS
        },
        speed=speed,
    )


def names(detector: Path | None, judges: Judges) -> dict[str, str]:
    """Return the names of the networks that judged, by their kind."""
    found = {} if detector is None else {"detector": detector.name}
    return found if judges.clip is None else {**found, "clip": judges.clip.name}


def blind_to(verdicts: Sequence[Verdict], *, has_sets: bool) -> dict[str, str]:
    """Return what the judges of the verdicts that were measured cannot see. has_sets: whether sets were compared."""
    measured = [v.measure for v in verdicts if v.outcome != noninferiority.NOT_MEASURED]
    found = blind_spots.of(measured)
    return found | ({blind_spots.SETS: blind_spots.BLIND_TO[blind_spots.SETS]} if has_sets else {})
