"""What those who wait for a job are told of its success: its row and its images, which they need not read then.

It is told after the commit, and is what the rows say. Knows no HTTP.
"""

import json
from typing import Any

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


def encode(job: Job, images: list[dict[str, Any]]) -> str:
    """images: as `compiled.as_rows` gives them, in order of index."""
    facts = {field.name: getattr(job, field.name) for field in _CHANGED}
    return json.dumps({"job": facts, "images": images}, default=str)


def apply(told: str, job: Job) -> None:
    """Bring a job that was read before its end, and its images, to what was told of it."""
    facts = json.loads(told)
    for field in _CHANGED:
        setattr(job, field.name, field.to_python(facts["job"][field.name]))
    images = [_image(row) for row in facts["images"]]
    job._prefetched_objects_cache = {"images": images}  # type: ignore[attr-defined]


def _image(row: dict[str, Any]) -> Image:
    image = Image(
        **{
            field.attname: field.to_python(row[str(field.column)])
            for field in Image._meta.concrete_fields
        }
    )
    image._state.adding = False
    return image
