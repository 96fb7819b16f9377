"""Download of a Hugging Face hub repository: the files that `importing` reads, and never a pickle."""

import re
from collections.abc import Collection
from pathlib import Path

from generation.engine import importing
from generation.engine.errors import ReleaseInvalid

SMALL = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    *(f"tokenizer/{name}" for name in importing.TOKENIZER_FILES),
    *(f"{folder}/config.json" for folder in importing.WEIGHTS),
)


def download(hub_id: str) -> Path:
    """Download the wanted files of a repository; return the folder. Raises ReleaseInvalid."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        found = huggingface_hub.snapshot_download(hub_id, dry_run=True)
        names = wanted(hub_id, [file.filename for file in found])
        return Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=names))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ReleaseInvalid(
            f"{hub_id} could not be downloaded: {str(error).splitlines()[0]} "
            "Check the id and the network, or download it elsewhere and give the folder."
        ) from error


def wanted(hub_id: str, names: Collection[str]) -> list[str]:
    """Return which of a repository's files to download: one file of weights, or its shards, of each component.

    Raises ReleaseInvalid if the repository is not in diffusers' layout, or has weights only as pickles.
    """
    if SMALL[0] not in names:
        raise ReleaseInvalid(
            f"{hub_id} has no {SMALL[0]}, so it is not in diffusers' layout. Give another repository."
        )
    found = [name for name in SMALL if name in names]
    for folder, base in importing.WEIGHTS.items():
        own = {name.removeprefix(f"{folder}/") for name in names if name.startswith(f"{folder}/")}
        chosen = importing.chosen_weights(own, base)
        if chosen is None:
            raise importing.without_weights(f"{hub_id}/{folder}", own, base)
        found.append(f"{folder}/{chosen}")
        if chosen.endswith(".json"):
            variant = ".fp16" if ".fp16" in chosen else ""
            shard = re.compile(rf"{re.escape(base + variant)}-\d+-of-\d+\.safetensors")
            found += [f"{folder}/{name}" for name in sorted(own) if shard.fullmatch(name)]
    return found
