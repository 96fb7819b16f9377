"""Snapshot of the active catalogue in files: the only catalogue data that training reads.

Accepted real images are included. Without any, the content and thus the name depend on the catalogue alone.
"""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from distillation.detector import network as detectors
from distillation.detector import version as versions
from distillation.detector.network import DetectorConfig
from distillation.errors import DistillationRefused
from distillation.examples import lifecycle as curation
from distillation.resumable import atomic
from distillation.trainers import catalogue as catalogues
from distillation.trainers.catalogue import Catalogue
from generation.catalogue import variants as prompts
from generation.engine.errors import EngineError
from generation.engine.prompts.embeddings import unpack
from generation.images import storage
from generation.models import Embedding, PromptVariant, Release
from generation.releases import coverage, default_release, quality
from generation.releases.default_release import Serving


def take(
    teacher: Release,
    root: Path,
    *,
    detector: Path | None,
    most: int | None = None,
    active: Release | None = None,
    tags: Sequence[str] = (),
) -> Path:
    """Return a folder in `root`, named by content hash, for `trainers.catalogue.read`. Raises DistillationRefused.

    detector: its bits are compared with the variants' tags; None if there is none. most: largest number of variants,
    those first that the active release does not cover; None: all. tags: only variants with one of them; none: all.
    """
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".catalogue-", dir=root) as temporary:
        folder = Path(temporary) / "catalogue"
        variants = _variants(teacher, most, active, tags)
        if tags and not variants:
            raise DistillationRefused(f"No active prompt variant has a tag of {', '.join(tags)}.")
        catalogue = _catalogue(variants, teacher, detector)
        catalogues.write(catalogue, folder)
        _write_hard(catalogue.slugs, folder)
        _write_examples(catalogue.slugs, min(teacher.image_sizes[0]), folder)
        files = sorted(path for path in folder.iterdir() if path.is_file())
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
        target = root / f"catalogue-{digest[:16]}"
        if not target.exists():
            folder.rename(target)
    return target


def pictures(catalogue: Path) -> Path | None:
    """Return the folder of the snapshot's real images, if there are at least two."""
    folder = catalogue / catalogues.PICTURES
    return folder if folder.is_dir() and len(list(folder.iterdir())) > 1 else None


def _write_hard(slugs: Sequence[str], folder: Path) -> None:
    """Write the variants that no student in service makes well, if there are any, in two grades.

    Shares would change with every judged picture, and the snapshot's name with them.
    """
    rows = Serving.now().annotated(PromptVariant.objects.filter(slug__in=slugs))
    hard = rows.filter(default_release.hard()).order_by("slug")
    found = {
        slug: 2 if share < quality.limit(floor) / 2 else 1
        for slug, share, floor in hard.values_list("slug", "student_share", "floor")
    }
    if found:
        atomic.write_file(folder / catalogues.HARD, json.dumps(found, indent=1) + "\n")


def _write_examples(slugs: Sequence[str], side: int, folder: Path) -> None:
    """Write the accepted examples of the teacher's size. Local files are hard-linked: this takes no space and
    protects them from removal."""
    rows = curation.accepted().filter(side=side, source__variants__slug__in=slugs)
    fields = ("source__variants__slug", "sha256", "file")
    found = list(rows.values_list(*fields).distinct().order_by(*fields))
    is_there = storage.at_once(storage.exists, [file for *_, file in found])
    examples = [
        {"slug": slug, "sha256": sha256, "file": file}
        for (slug, sha256, file), there in zip(found, is_there, strict=True)
        if there
    ]
    if not examples:
        return
    text = json.dumps(examples, indent=1) + "\n"
    atomic.write_file(folder / catalogues.EXAMPLES, text)
    (folder / catalogues.PICTURES).mkdir()
    for file in {example["file"] for example in examples}:
        storage.copy(file, folder / catalogues.PICTURES / Path(file).name)


def _variants(
    teacher: Release, most: int | None, active: Release | None, tags: Sequence[str]
) -> list[PromptVariant]:
    """Return the variants of a snapshot in the catalogue's order."""
    usable = prompts.tagged(prompts.usable(teacher.encoder_fingerprint), tags)
    variants = list(usable)
    if most is None or len(variants) <= most:
        return variants
    new = []
    if active is not None:
        known = set(usable.filter(coverage.condition(active)).values_list("pk", flat=True))
        new = [variant for variant in variants if variant.pk not in known][:most]
    others = [variant for variant in variants if variant not in new]
    # Evenly over a sorted catalogue, else they would all begin with the same word.
    count = most - len(new)
    chosen = {*new, *(others[row * len(others) // count] for row in range(count))}
    return [variant for variant in variants if variant in chosen]


def _catalogue(
    variants: Sequence[PromptVariant], teacher: Release, detector: Path | None
) -> Catalogue:
    """Return the variants with their embeddings under the teacher's encoder."""
    if not variants:
        raise DistillationRefused(
            "No prompt variant is active. Import a catalogue: manage.py catalogue import FILE."
        )
    stored = {
        (row.variant_id, row.revision): row
        for row in Embedding.objects.filter(
            encoder_fingerprint=teacher.encoder_fingerprint,
            variant__in=variants,
            data__isnull=False,
        )
    }
    missing = [v.slug for v in variants if (v.pk, v.revision) not in stored]
    if missing:
        raise DistillationRefused(
            f"{len(missing)} of {len(variants)} active prompt variants have no embedding for the encoder of "
            f"{teacher.name}; the first is {missing[0]}. Encode them with: manage.py catalogue encode"
        )
    try:
        embeds = np.stack([unpack(stored[v.pk, v.revision].stored()) for v in variants])
    except EngineError as error:
        raise DistillationRefused(error.detail) from error
    stated = wanted = None
    if detector is not None:
        config = detectors.load(detector).config
        _check_tags(variants, config)
        stated, wanted = catalogues.bits_of(
            [variant.tags for variant in variants], config.bits, config.groups
        )
        if not stated.any():
            raise DistillationRefused(
                f"No tag of the active prompt variants is a bit of the detector {detector} "
                f"({', '.join(config.bits[:8])} …). Tag the variants with its bits, or omit the detector."
            )
    return Catalogue(
        slugs=tuple(variant.slug for variant in variants),
        texts=tuple(variant.text for variant in variants),
        prompt_embeds=torch.from_numpy(embeds.astype(np.float16)),
        encoder_fingerprint=teacher.encoder_fingerprint,
        stated=stated,
        wanted=wanted,
    )


def _check_tags(variants: Sequence[PromptVariant], config: DetectorConfig) -> None:
    """Raise DistillationRefused for tags that contradict each other: two bits of a mutually exclusive group."""
    groups = versions.grouped(config.bits, config.groups)
    for variant in variants:
        for group in groups:
            if len(both := [tag for tag in variant.tags if tag in group]) > 1:
                raise DistillationRefused(
                    f"The tags of the prompt variant {variant.slug} contradict each other: the detector finds one of "
                    f"{' and '.join(both)} in a picture, never several. Remove the others."
                )
