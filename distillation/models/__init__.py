"""The rows of distillation, by noun. One-row methods only."""

from distillation.models.curation import Detector, Example, ImageSource, Verdict
from distillation.models.evaluations import Evaluation
from distillation.models.runs import Decision, Run, Slice

__all__ = [
    "Decision",
    "Detector",
    "Evaluation",
    "Example",
    "ImageSource",
    "Run",
    "Slice",
    "Verdict",
]
