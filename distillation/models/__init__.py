"""The rows of distillation, by noun. One-row methods only."""

from distillation.models.curation import Detector, Example, ImageSource, Verdict
from distillation.models.runs import Decision, Run, Slice

__all__ = ["Decision", "Detector", "Example", "ImageSource", "Run", "Slice", "Verdict"]
