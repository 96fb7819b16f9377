"""Inputs of a run as folders: recipe, teacher, students, detector, CLIP, a snapshot of the catalogue."""

import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from django.conf import settings

from distillation import folders
from distillation.detectors import registry as detectors
from distillation.errors import DistillationRefused
from distillation.pipeline import overrides, recipes
from distillation.pipeline.inputs import Inputs
from distillation.pipeline.recipes import Recipe
from distillation.runs import snapshot
from generation.catalogue import variants as prompts
from generation.models import Release
from generation.releases import lifecycle as releases
from generation.releases.default_release import Serving

STARTER_JUDGES = Path(settings.BASE_DIR) / "distillation" / "starter" / "judges"


def recipe_of(description: Mapping[str, Any]) -> Recipe:
    """Return the recipe for {"recipe": NAME, FIELD: VALUE, …}. Raises RecipeRefused, which names the field."""
    fields = dict(description)
    return overrides.changed(recipes.named(str(fields.pop("recipe", ""))), fields)


def gather(
    teacher: Release,
    *,
    begins_with: Release | None = None,
    active: Release | None = None,
    catalogue: Path | None = None,
    within: Path | None = None,
    detector: str = "",
    clip: str = "",
    real: str = "",
    most_variants: int | None = None,
    tags: Sequence[str] = (),
) -> Inputs:
    """Return the inputs. Raises DistillationRefused.

    catalogue: a snapshot; None takes one of at most `most_variants`, within that folder or the default one. detector,
    clip: folders; "" means the setting's, else the active detector if it fits, else the starter's for its teacher, else
    none. real: a folder; "" means the snapshot's real images, if any. tags: see `snapshot.take`.
    """
    is_starter = teacher.name == detectors.STARTER_TEACHER
    detector_folder = _folder(
        detector or settings.DISTILLATION_DETECTOR,
        default=_active_detector(teacher) or (STARTER_JUDGES / "detector" if is_starter else None),
    )
    clip_folder = _folder(
        clip or settings.DISTILLATION_CLIP, default=STARTER_JUDGES / "clip" if is_starter else None
    )
    catalogue = catalogue or snapshot.take(
        teacher,
        within or folders.root(),
        detector=detector_folder,
        most=most_variants,
        active=active,
        tags=tags,
    )
    return Inputs(
        teacher=releases.folder(teacher),
        catalogue=catalogue,
        student=None if begins_with is None else releases.folder(begins_with),
        active=None if active is None else releases.folder(active),
        detector=detector_folder,
        clip=clip_folder,
        real=_folder(real, default=snapshot.pictures(catalogue)),
        code_revision=_code_revision(),
    )


def compared_with(teacher: Release, tags: Sequence[str]) -> Release | None:
    """Return the student that a new one is measured against: the active one.

    For a part of the catalogue it is the student in service that makes most of its prompts.
    """
    if not tags:
        return releases.active(Release.Kind.STUDENT)
    serving = Serving.now()
    part = prompts.tagged(prompts.usable(teacher.encoder_fingerprint), tags)
    rows = serving.annotated(part).filter(is_covered=True)
    counts = Counter(serving.student_of(row) for row in rows)
    return counts.most_common(1)[0][0] if counts else serving.student


def _active_detector(teacher: Release) -> Path | None:
    """Return the folder of the active version, if it has the teacher's image size and can judge its images."""
    active = detectors.active()
    if active is None or not detectors.can_judge(active, teacher.name):
        return None
    size = active.manifest["image_size"]
    return detectors.folder(active) if teacher.image_sizes[0] == (size, size) else None


def _folder(given: str, *, default: Path | None) -> Path | None:
    if not given:
        return default
    folder = Path(given).resolve()
    if not folder.is_dir():
        raise DistillationRefused(f"{given} is not a folder.")
    return folder


def _code_revision() -> str:
    """Return the commit of the checkout; empty without one."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"],
            cwd=settings.BASE_DIR, capture_output=True, text=True, check=False,
        )  # fmt: skip
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
