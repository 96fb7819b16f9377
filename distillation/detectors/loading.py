"""Loading of a detector version: its networks, and bits added by settings."""

from django.conf import settings

from distillation.detector import judge as judging
from distillation.detector.judge import Judge
from distillation.detectors import registry as detectors
from distillation.models import Detector


def load(detector: Detector) -> Judge:
    """Load the networks. Raises DetectorUnusable."""
    further = []
    if settings.NSFW_BIT:
        from distillation.detector.nudity import Nudity  # needs an optional library

        further.append(Nudity())
    return judging.load(detectors.folder(detector), further=further)
