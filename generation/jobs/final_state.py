"""What those who wait for a job are told of its success: its row and its images, which they need not read then.

It is told after the commit, and is what the rows say. Knows no HTTP.
"""

import json
from typing import Any

from django.core.exceptions import ValidationError

from generation.models import Image, Job

# What a row of a job gets after it was written.
_CHANGED = [
    field
    for field in Job._meta.concrete_fields
    if field.name
    in (
        "status",
        "cache",
        "attempt",
        "failures",
        "worker_name",
        "device_seconds",
        "encode_seconds",
        "started_at",
        "finished_at",
    )
]


def encode(
    job: Job, images: list[dict[str, Any]], *, device_seconds: float, encode_seconds: float
) -> str:
    """images: as `compiled.as_rows` gives them, in order of index; seconds: of all attempts, as in the row."""
    facts = {field.name: getattr(job, field.name) for field in _CHANGED}
    facts |= {"device_seconds": device_seconds, "encode_seconds": encode_seconds}
    return json.dumps({"job": facts, "images": images}, default=str)


def apply(told: str, job: Job) -> bool:
    """Bring a job that was read before its end, and its images, to what was told of it. False: it says too little, as
    that of another version may while a new one is rolled out."""
    try:
        facts = json.loads(told)
        changed = {field.name: field.to_python(facts["job"][field.name]) for field in _CHANGED}
        images = [_image(row) for row in facts["images"]]
    except (KeyError, TypeError, ValueError, ValidationError):
        return False
    for name, value in changed.items():
        setattr(job, name, value)
    job._prefetched_objects_cache = {"images": images}  # type: ignore[attr-defined]
    return True


def _image(row: dict[str, Any]) -> Image:
    image = Image(
        **{
            field.attname: field.to_python(row[str(field.column)])
            for field in Image._meta.concrete_fields
        }
    )
    image._state.adding = False
    return image
