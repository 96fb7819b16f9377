"""Admin pages of distillation, one module per subject. They show rows and call the app's functions."""

from distillation.admin import (
    decisions,
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
    "detectors",
    "evaluations",
    "examples",
    "releases",
    "runs",
    "schedule",
    "sources",
    "variants",
]
