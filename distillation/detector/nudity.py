"""The bit `safe` of a picture, by the nudity detector of another library.

The library is nudenet, whose wheel holds its network (10 MB, run by onnxruntime). It is not among our requirements: its
licence (AGPL-3.0 in the wheel, MIT in its metadata) must be accepted by the operator who turns the bit on.
"""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from distillation.detector.errors import DetectorUnusable

LIBRARY = "nudenet"
EXPOSED = frozenset(
    f"{part}_EXPOSED"
    for part in ("FEMALE_BREAST", "FEMALE_GENITALIA", "MALE_GENITALIA", "BUTTOCKS", "ANUS")
)


class Nudity:
    """The bit is present if no class of EXPOSED is found with a score above ½."""

    bit = "safe"
    threshold = 0.5

    def __init__(self) -> None:
        try:
            library: Any = import_module(LIBRARY)
        except ImportError as error:
            raise DetectorUnusable(
                f"The bit {self.bit} needs the Python package {LIBRARY}: pip install {LIBRARY}, or set NSFW_BIT=false."
            ) from error
        self._detector = library.NudeDetector()

    def probabilities(self, images: Tensor) -> Tensor:
        """Return the probability of the bit, float32 [N]. images: uint8 RGB [N, 3, H, W]."""
        return torch.tensor([1 - self._exposed(image) for image in images], dtype=torch.float32)

    def _exposed(self, image: Tensor) -> float:
        bgr = image.flip(0).permute(1, 2, 0).contiguous().numpy()  # as OpenCV reads files
        found = self._detector.detect(bgr)
        return max((one["score"] for one in found if one["class"] in EXPOSED), default=0.0)
