"""The admin of distillation, one module per noun. Shows rows, calls the app's functions, changes no state itself."""

from distillation.admin import (
    detectors,
    evaluations,
    examples,
    releases,
    runs,
    schedule,
    sources,
)

__all__ = ["detectors", "evaluations", "examples", "releases", "runs", "schedule", "sources"]
