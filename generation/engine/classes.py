"""The classes that the networks of a release may have, by the `_class_name` in their config.json. Knows no tensors."""

import json
from collections.abc import Sequence
from pathlib import Path

from generation.engine.errors import ReleaseInvalid

FOLDED_UNET = "FoldedUNet2DConditionModel"  # without a time embedding: `student`
TINY_VAE = "AutoencoderTiny"
ACCEPTED = {
    "unet": ("UNet2DConditionModel", FOLDED_UNET),
    "vae": ("AutoencoderKL", TINY_VAE),
}


def read(folder: Path) -> dict[str, str]:
    """Component → class, of a release folder. Raises ReleaseInvalid for a class that this program does not load."""
    found = {}
    for component, accepted in ACCEPTED.items():
        path = folder / component / "config.json"
        try:
            name = json.loads(path.read_text("utf-8")).get("_class_name")
        except (OSError, ValueError, AttributeError) as error:
            raise ReleaseInvalid(
                f"{path} cannot be read: {error}. Copy the release again from where it came."
            ) from error
        if name not in accepted:
            raise ReleaseInvalid(
                f"{path}: the class {name!r} is not one of {', '.join(accepted)}. Update this program."
            )
        found[component] = name
    return found


def is_folded(folder: Path, *, guidance_scale: float, covered_variants: Sequence[str]) -> bool:
    """Whether the U-Net is folded. Raises ReleaseInvalid as `read`, and where the manifest contradicts the class."""
    if read(folder)["unet"] != FOLDED_UNET:
        return False
    if guidance_scale != 1:
        raise ReleaseInvalid(
            f"guidance_scale is {guidance_scale}, but a {FOLDED_UNET} has learnt the guidance of its teacher: it must "
            "be 1. Make the release again."
        )
    if not covered_variants:
        raise ReleaseInvalid(
            f"covered_variants is empty, but a {FOLDED_UNET} is made for prompt variants that it names. Make the "
            "release again."
        )
    return True
