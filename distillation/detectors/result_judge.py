"""Target of the setting RESULT_JUDGE: judges newly generated images of a release."""

import threading
from collections.abc import Collection, Sequence
from typing import Any

import torch
from cachetools import LRUCache, TTLCache, cached

from distillation.detector.judge import Judge
from distillation.detector.network import resized
from distillation.detectors import loading
from distillation.detectors import registry as detectors
from distillation.models import Detector
from generation.catalogue.text_rules import NOT
from generation.jobs.quality_control import Finding
from generation.models import Release

LOOK_SECONDS = 5.0  # interval of checks for the active version
# Trained on photographs, and absent in a third of the starter student's images (docs/experiments.md), since small
# networks draw softer. Required only if a variant's tags name it.
SOFT = frozenset({"sharp"})

_guard = threading.Lock()  # results are judged in several threads


class ReleaseJudge:
    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    def __call__(self, pixels: Sequence[Any], tags: Sequence[Collection[str]]) -> list[Finding]:
        """Judge images. pixels: uint8 [height, width, 3] each, of any size; tags: of the prompt variants."""
        size = self._judge.image_size
        judgements = self._judge.judge(
            torch.cat(
                [resized(torch.from_numpy(one).permute(2, 0, 1)[None], size) for one in pixels]
            ),
            present=[[tag for tag in row if not tag.startswith(NOT)] for row in tags],
            absent=[[tag.removeprefix(NOT) for tag in row if tag.startswith(NOT)] for row in tags],
            required=[bit for bit in self._judge.required if bit not in SOFT],
        )
        name = self._judge.name
        return [Finding(one.is_accepted, one.failing, one.score, name) for one in judgements]


def judge(release: Release) -> ReleaseJudge | None:
    """Return a judge with the active version; None without one, or if it cannot judge the release's images."""
    with _guard:
        version = _active()
        loaded = None if version is None else _loaded(version)
    if version is None or loaded is None:
        return None
    teacher = release.name if release.kind == Release.Kind.TEACHER else release.manifest["parent"]
    return ReleaseJudge(loaded) if detectors.can_judge(version, teacher) else None


@cached(TTLCache(maxsize=1, ttl=LOOK_SECONDS))
def _active() -> Detector | None:
    return detectors.active()


@cached(LRUCache(maxsize=1))
def _loaded(version: Detector) -> Judge:
    return loading.load(version)
