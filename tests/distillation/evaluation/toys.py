"""Releases, judges and prompts at toy size, by the real code."""

import functools
import tempfile
from pathlib import Path

import torch

from distillation.detector import network as detectors
from distillation.detector.network import Detector, DetectorConfig
from distillation.evaluation.prompts import Prompts
from distillation.starter.captions import captions
from distillation.starter.words import BITS, TRAINED
from generation.engine import release as releases
from tests import tiny

SIZE = 64  # of the tiny release
GROUPS = (8, 8, 4, 3)
_holders: list[tempfile.TemporaryDirectory] = []  # removed when the process ends


@functools.cache
def teacher_folder() -> Path:
    folder = _scratch() / "release"
    tiny.make_tiny_release(folder, name="toy-teacher", steps=3)
    return folder


@functools.cache
def student_folder() -> Path:
    """The same networks in one step."""
    folder = _scratch() / "release"
    timesteps = releases.read(teacher_folder()).timesteps[:1]
    options = {"kind": "student", "parent": "toy-teacher", "timesteps": timesteps}
    tiny.make_tiny_release(folder, name="toy-student", steps=3, has_encoder=False, **options)
    return folder


@functools.cache
def detector_folder() -> Path:
    """Untrained; its head is large, so that its verdicts depend on the picture."""
    folder = _scratch() / "detector"
    config = DetectorConfig(BITS, GROUPS, image_size=SIZE, widths=(4, 8), depths=(0, 1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        detector = Detector(config)
        detector.head.weight.data *= 20
    detectors.save(detector, folder)
    return folder


def prompts(count: int) -> Prompts:
    """Of combinations of the starter, with random embeddings."""
    manifest = releases.read(teacher_folder())
    chosen = TRAINED[:count]
    generator = torch.Generator().manual_seed(0)
    wanted = torch.tensor([combination.bits for combination in chosen])
    return Prompts(
        slugs=tuple(f"prompt-{number}" for number in range(count)),
        texts=tuple(captions(combination)[0] for combination in chosen),
        prompt_embeds=torch.randn(count, *manifest.embedding_shape, generator=generator).half(),
        encoder_fingerprint=manifest.encoder_fingerprint,
        wanted=wanted,
        stated=torch.ones_like(wanted),
    )


def _scratch() -> Path:
    holder = tempfile.TemporaryDirectory(prefix="evaluation-toys-")
    _holders.append(holder)
    return Path(holder.name)
