"""Rows of curation for tests, with defaults for everything. Nothing here loads tensors."""

import itertools
from collections.abc import Sequence
from typing import Any

from distillation.models import Detector, Example, ImageSource, Verdict
from generation.images import storage
from generation.models import PromptVariant

_numbers = itertools.count(1)


def make_detector(
    *, name: str = "detector-1", bits: Sequence[str] = ("vase", "bowl"), **fields: Any
) -> Detector:
    """Return the detector of that name; create it, without a folder, if there is none, active if no other is."""
    known = Detector.objects.filter(name=name).first()
    if known:
        return known
    is_first = not Detector.objects.filter(status="active").exists()
    status = fields.pop("status", "active" if is_first else "candidate")
    return Detector.objects.create(
        name=name,
        status=status,
        path=name,
        manifest={"bits": list(bits)},
        manifest_sha256="d" * 64,
        **fields,
    )


def make_source(
    *, name: str = "field", variants: Sequence[PromptVariant] = (), **fields: Any
) -> ImageSource:
    """Return the source of that name; create it if there is none."""
    source, _ = ImageSource.objects.get_or_create(name=name, defaults={"url": name, **fields})
    source.variants.add(*variants)
    return source


def make_example(
    *, source: ImageSource | None = None, content: bytes | None = None, **fields: Any
) -> Example:
    """Create an example without verdicts. content: of its crop; None for no file."""
    number = next(_numbers)
    file = "" if content is None else storage.save(content, "png").name
    return Example.objects.create(
        source=source or make_source(),
        location=fields.pop("location", f"picture-{number}.png"),
        sha256=fields.pop("sha256", f"{number:064d}"),
        file=file,
        **fields,
    )


def make_verdict(
    example: Example,
    *,
    detector: Detector | None = None,
    failing: Sequence[str] = (),
    **fields: Any,
) -> Verdict:
    """Create a verdict: accepted, unless a bit fails."""
    return Verdict.objects.create(
        example=example,
        detector=detector or make_detector(),
        is_accepted=not failing,
        failing=list(failing),
        score=fields.pop("score", 0.1 if failing else 0.9),
        probabilities=fields.pop("probabilities", {"vase": 0.9, "bowl": 0.2}),
        **fields,
    )
