"""Network classes that a release may have, by the `_class_name` in config.json. Imports no torch."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from generation.engine.errors import ReleaseInvalid

FOLDED_UNET = "FoldedUNet2DConditionModel"  # without a time embedding: see `student`
TINY_VAE = "AutoencoderTiny"
SHUFFLED_VAE = "ShuffledAutoencoderTiny"  # ends in a pixel shuffle: see `latents.as_images`
ACCEPTED = {
    "unet": ("UNet2DConditionModel", FOLDED_UNET),
    "vae": ("AutoencoderKL", TINY_VAE, SHUFFLED_VAE),
}


def make(kind: Any, config: Mapping[str, Any], **overrides: Any) -> Any:
    """Return an object of a class of diffusers. Fields that the class does not have are dropped without a warning."""
    accepted = kind._get_init_keys(kind)
    return kind(**{**{key: value for key, value in config.items() if key in accepted}, **overrides})


def read(folder: Path) -> dict[str, str]:
    """Return component → class of a release folder. Raises ReleaseInvalid for an unsupported class."""
    found = {}
    for component, accepted in ACCEPTED.items():
        path = folder / component / "config.json"
        try:
            name = json.loads(path.read_text("utf-8")).get("_class_name")
        except (OSError, ValueError, AttributeError) as error:
            raise ReleaseInvalid(
                f"{path} cannot be read: {error}. Copy the release again from its source."
            ) from error
        if name not in accepted:
            raise ReleaseInvalid(
                f"{path}: the class {name!r} is not one of {', '.join(accepted)}. Update Retort."
            )
        found[component] = name
    return found


def is_folded(folder: Path, *, guidance_scale: float, covered_variants: Sequence[str]) -> bool:
    """Return whether the U-Net is folded. Raises ReleaseInvalid, also if the manifest contradicts this."""
    if read(folder)["unet"] != FOLDED_UNET:
        return False
    if guidance_scale != 1:
        raise ReleaseInvalid(
            f"guidance_scale is {guidance_scale}, but a {FOLDED_UNET} contains the guidance of its teacher, so it must "
            "be 1. Create the release again."
        )
    if not covered_variants:
        raise ReleaseInvalid(
            f"covered_variants is empty, but a {FOLDED_UNET} must list the prompt variants it was made for. Create the "
            "release again."
        )
    return True
