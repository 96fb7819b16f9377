"""Models of distillation. They have methods on single rows only; the logic is in the packages."""

from distillation.models.curation import Detector, Example, ImageSource, Verdict
from distillation.models.designs import Design, DesignCandidate
from distillation.models.evaluations import Evaluation
from distillation.models.runs import Decision, Run, Slice

__all__ = [
    "Decision",
    "Design",
    "DesignCandidate",
    "Detector",
    "Evaluation",
    "Example",
    "ImageSource",
    "Run",
    "Slice",
    "Verdict",
]
