"""Read a split stored in shards: safetensors files with JSON lists in their metadata."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open


def read(
    folder: Path, split: str, *, tensors: Sequence[str], facts: Sequence[str]
) -> tuple[dict[str, torch.Tensor], dict[str, list[Any]]]:
    """Return the named tensors and metadata lists (`facts`), each concatenated over all shards.

    Raises FileNotFoundError if there is no shard, ValueError if one cannot be read.
    """
    paths = sorted(folder.glob(f"{split}-[0-9]*.safetensors"))
    if not paths:
        raise FileNotFoundError(
            f"{folder} has no shard of the split {split!r}. Make it with `make starter`."
        )
    found: dict[str, list[torch.Tensor]] = {name: [] for name in tensors}
    lists: dict[str, list[Any]] = {name: [] for name in facts}
    for path in paths:
        try:
            with safe_open(path, framework="pt") as shard:
                for name in tensors:
                    found[name].append(shard.get_tensor(name))
                for name in facts:
                    lists[name] += json.loads(shard.metadata()[name])
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} cannot be read ({error}). Delete it and run `make starter`."
            ) from error
    return {name: torch.cat(parts) for name, parts in found.items()}, lists
