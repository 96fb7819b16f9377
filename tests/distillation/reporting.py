"""Results of an evaluation at toy size: a manifest, and folders of stages. Loads no tensors."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillation import folders


def summary(**changes: Any) -> dict[str, Any]:
    """Return the summary of an evaluation, as in a release's manifest."""
    interval = {"value": 0.8, "low": 0.7, "high": 0.9}
    both = {"student": interval, "teacher": interval | {"value": 0.85}}
    verdict = {"measure": "diversity", "is_ratio": True, "margin": 0.8, "estimate": 0.83,
               "low": 0.82, "high": 0.84, "prompts": 256, "outcome": "non-inferior"}  # fmt: skip
    return {
        "format_version": 1, "teacher": "starter-teacher", "outcome": "inconclusive", "prompts": 256,
        "seeds_each": 4, "verdicts": [verdict], "right": both, "clip_score": both, "spread": both,
        "distance": interval, "seconds_per_picture": {"student": 0.0113, "teacher": 1.69},
    } | changes  # fmt: skip


def figures(*, new: str = "") -> dict[str, Any]:
    """Return evaluation.json, as far as it is read, of three variants but `new`."""

    def pair(student: float, teacher: float) -> dict[str, float]:
        return {"student": student, "teacher": teacher}

    rows = [
        ("vase", pair(0.5, 1.0), pair(30.0, 20.0), pair(0.1, 0.2), 0.2),
        ("mug", pair(0.9, 1.0), pair(10.0, 20.0), pair(0.2, 0.2), 0.1),
        ("bowl", None, pair(19.0, 20.0), None, 0.3),
    ]
    side = {"name": "any", "bytes_on_disk": {"unet": 1000, "vae": 500}, "speed": None}
    both = {"student": {"value": 0.5, "low": 0.4, "high": 0.6}, "teacher": {"value": 0.9}}
    return {
        "student": side, "teacher": side, "prompts": 3, "seeds_each": 4,
        "right": {"all attributes": both}, "clip_score": None, "spread": both,
        "distance": {"value": 0.04, "low": 0.03, "high": 0.05},
        "per_prompt": [
            {"slug": slug, "text": f"a {slug}", "right": right, "clip_score": clip, "spread": spread,
             "distance": distance, "psnr": 20.0, "ssim": 0.8}
            for slug, right, clip, spread, distance in rows
            if slug != new
        ],
    }  # fmt: skip


def write_stage(folder: str, files: Mapping[str, Any]) -> Path:
    """Write a stage's folder with these files: text, bytes, or values that become JSON."""
    place = folders.root() / folder
    place.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if isinstance(content, bytes):
            (place / name).write_bytes(content)
        else:
            text = content if isinstance(content, str) else json.dumps(content)
            (place / name).write_text(text)
    return place
