"""Verdicts of a detector version on examples. Loads torch.

A version gives one verdict per example. It is repeated only if the required tags have changed.
"""

import io
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import structlog
import torch
from django.db.models import Exists, OuterRef, QuerySet
from PIL import Image
from torch import Tensor

from distillation.detector.judge import Judge
from distillation.detector.network import resized
from distillation.detectors import loading
from distillation.detectors import registry as detectors
from distillation.examples import lifecycle as examples
from distillation.models import Detector, Example, ImageSource, Verdict
from generation.errors import StorageFailed
from generation.images import storage
from generation.infra import stalls
from generation.models import Release
from generation.releases import lifecycle as releases

log = structlog.get_logger(__name__)

BATCH = 32


def judge_all(*, is_over: Callable[[], bool] = lambda: False) -> int:
    """Judge with the active version if it can judge images like the active teacher's. Return the number of examples."""
    detector = detectors.active()
    if detector is None or not can_judge(detector):
        return 0
    return judge(detector, is_over=is_over)


def can_judge(detector: Detector) -> bool:
    """Return whether the version can judge images like the active teacher's: the included ones only the starter's."""
    teacher = releases.active(Release.Kind.TEACHER)
    return detectors.can_judge(detector, teacher.name if teacher else None)


def judge(
    detector: Detector,
    *,
    on_progress: Callable[[int, int], object] = lambda done, total: None,
    is_over: Callable[[], bool] = lambda: False,
) -> int:
    """Judge every example without a verdict of this version. Return the number of judged ones.

    Raises DetectorUnusable, DistillationRefused.
    """
    waiting = {source: missing(detector, source) for source in ImageSource.objects.all()}
    total = sum(rows.count() for rows in waiting.values())
    if not total:
        return 0
    judge_of_pictures = loading.load(detector)
    done = judged = 0
    for source, rows in waiting.items():
        present, absent = examples.stated_bits(source)
        for batch in _batches(rows):
            if is_over():
                return judged
            judged += _judge(judge_of_pictures, detector, batch, present, absent)
            done += len(batch)
            stalls.progressed()
            on_progress(done, total)
    log.info("examples_judged", detector=detector.name, count=judged)
    return judged


def missing(detector: Detector, source: ImageSource) -> QuerySet[Example]:
    """Return examples of the source without a verdict of this version, or with one on other tags."""
    present, absent = examples.stated_bits(source)
    judged = Verdict.objects.filter(
        example=OuterRef("pk"), detector=detector, present=present, absent=absent
    )
    return Example.objects.filter(~Exists(judged), source=source, refusal="").order_by("pk")


def _batches(rows: QuerySet[Example]) -> Iterator[list[Example]]:
    ids = list(rows.values_list("pk", flat=True))
    for start in range(0, len(ids), BATCH):
        yield list(Example.objects.filter(pk__in=ids[start : start + BATCH]).order_by("pk"))


def _judge(
    judge: Judge,
    detector: Detector,
    batch: Sequence[Example],
    present: list[str],
    absent: list[str],
) -> int:
    readable, pictures = [], []
    for example in batch:
        try:
            pictures.append(_picture(storage.read(example.file), judge.image_size))
            readable.append(example)
        except (StorageFailed, OSError) as error:
            log.warning("example_unreadable", example=example.pk, error=str(error))
    if not readable:
        return 0
    count = len(readable)
    found = judge.judge(torch.cat(pictures), present=[present] * count, absent=[absent] * count)
    for example, judgement in zip(readable, found, strict=True):
        Verdict.objects.update_or_create(
            example=example,
            detector=detector,
            defaults={
                "is_accepted": judgement.is_accepted,
                "failing": list(judgement.failing),
                "present": present,
                "absent": absent,
                "score": judgement.score,
                "probabilities": judgement.probabilities,
            },
        )
    return count


def _picture(content: bytes, side: int) -> Tensor:
    """Decode a crop to uint8 [1, 3, side, side]."""
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        pixels = np.array(image.convert("RGB"))
    return resized(torch.from_numpy(pixels).permute(2, 0, 1)[None], side)
