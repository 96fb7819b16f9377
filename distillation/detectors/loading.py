"""A version of the detector as it judges here: its networks, and the bits that settings add."""

from django.conf import settings

from distillation.detector import judge as judging
from distillation.detector.judge import Judge
from distillation.detectors import registry as detectors
from distillation.models import Detector


def load(detector: Detector) -> Judge:
    """Raises DetectorUnusable."""
    further = []
    if settings.NSFW_BIT:
        from distillation.detector.nudity import Nudity  # only then is its library needed

        further.append(Nudity())
    return judging.load(detectors.folder(detector), further=further)
