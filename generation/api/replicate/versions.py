"""Names of releases in Replicate's format. A model is a kind of release or one release; its versions are releases.

retort/student             the active student, as `model: student` means it
retort/NAME                the release with this name
retort/student:VERSION     the student named by VERSION
VERSION                    a release: the SHA-256 of its manifest, at least 8 digits of it, or the name of
                          the release
"""

import re
from typing import Any

from django.conf import settings

from generation.errors import ReleaseNotAvailable
from generation.models import Job, Release
from generation.releases import lifecycle as releases
from generation.webhooks.predictions import FORMATS, OWNER

_SHA256 = re.compile(r"[0-9a-f]{8,64}")


def meant(reference: str) -> str:
    """Return the `model` parameter of a job for this reference. Raises ReleaseNotAvailable."""
    if reference in Release.Kind.values:
        return reference
    model, _, version = reference.partition(":")
    if "/" not in model:
        return find(reference).name
    return find(version, model=model).name if version else _name(model)


def find(version: str, *, model: str = "") -> Release:
    """Return the release with this version. model: "owner/name" that it must belong to. Raises ReleaseNotAvailable."""
    rows = Release.objects.exclude(status=Release.Status.REJECTED)
    if model:
        name = _name(model)
        rows = rows.filter(kind=name) if name in Release.Kind.values else rows.filter(name=name)
    found = list(rows.filter(name=version))
    if not found and _SHA256.fullmatch(version):
        found = list(rows.filter(manifest_sha256__startswith=version)[:2])
    if len(found) == 1:
        return found[0]
    what = "more than one version" if found else "no version"
    of = f" of {model}" if model else ""
    raise ReleaseNotAvailable(
        f"There is {what} {version!r}{of}. Give the SHA-256 of a release's manifest, or its name.",
        parameter="version",
    )


def model_of(model: str) -> Release:
    """Return the current release of a model, "owner/name". Raises ReleaseNotAvailable."""
    return releases.named(_name(model))


def _name(model: str) -> str:
    """Return the kind, or the name of the release, that a model refers to."""
    owner, _, name = model.partition("/")
    if owner != OWNER or not name:
        raise ReleaseNotAvailable(
            f"No model {model!r}. Give {OWNER}/student, {OWNER}/teacher or {OWNER}/ and the name of a release.",
            parameter="model",
        )
    return name


def schema(release: Release) -> dict[str, Any]:
    """Return the OpenAPI schemas Input and Output of the release."""
    widths, heights = zip(*release.image_sizes, strict=True)
    text = {"type": "string"}
    properties = {
        "prompt": text | {"description": "Text of a prompt variant; alternative to variant."},
        "variant": text | {"description": "Slug of a prompt variant; alternative to prompt."},
        "match": {"type": "boolean", "default": True},
        "seed": {"type": "integer", "minimum": 0, "maximum": 2**32 - 1},
        "num_outputs": {
            "type": "integer",
            "minimum": 1,
            "maximum": settings.MAX_IMAGES_PER_JOB,
            "default": 1,
        },
        "size": text | {"enum": [f"{width}x{height}" for width, height in release.image_sizes]},
        "width": {"type": "integer", "enum": sorted(set(widths)), "default": widths[0]},
        "height": {"type": "integer", "enum": sorted(set(heights)), "default": heights[0]},
        "output_format": text | {"enum": list(FORMATS.values()), "default": Job.Format.WEBP.value},
        "metadata": {"type": "boolean", "default": False},
        "priority": {"type": "integer", "minimum": -100, "maximum": 100, "default": 0},
    }
    links = {"type": "array", "items": {"type": "string", "format": "uri"}}
    return {
        "openapi": "3.0.2",
        "info": {"title": release.name, "version": release.manifest_sha256},
        "paths": {},
        "components": {
            "schemas": {
                "Input": {"title": "Input", "type": "object", "properties": properties},
                "Output": {"title": "Output", **links},
            }
        },
    }
