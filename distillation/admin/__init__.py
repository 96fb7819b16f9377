"""Admin pages of distillation, one module per subject. They show rows and call the app's functions."""

from distillation.admin import (
    decisions,
    designs,
    detectors,
    evaluations,
    examples,
    releases,
    runs,
    schedule,
    sources,
    variants,
)

__all__ = [
    "decisions",
    "designs",
    "detectors",
    "evaluations",
    "examples",
    "releases",
    "runs",
    "schedule",
    "sources",
    "variants",
]
