"""Snapshot of the prompt variants that a student is made for, as files of a run.

A run reads only its snapshot, so changes of the catalogue during the run have no effect on it.
"""

import json
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from distillation.detector.labels import NOT
from distillation.evaluation.prompts import Prompts
from distillation.resumable import atomic

INDEX = "catalogue.json"
TENSORS = "catalogue.safetensors"
# Optional: the hard prompt variants by slug, with level 1 or 2.
HARD = "hard.json"
# Optional: the accepted real pictures with their variants, and the folder of their files.
EXAMPLES = "examples.json"
PICTURES = "examples"


class Catalogue(Prompts):
    """The prompt variants that a student is trained for."""

    def embeds(self, rows: Tensor) -> Tensor:
        """Return prompt_embeds of the rows (int64 [B]), fp32 [B, tokens, width]."""
        return self.prompt_embeds[rows.to(self.prompt_embeds.device)].float()


def bits_of(
    tags: Sequence[Collection[str]], bits: Sequence[str], groups: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return stated and wanted, bool [P, bits], of the tags of each variant.

    A tag that is a bit must be present; `not-` before a bit means that it must be absent. Bits form mutually exclusive
    groups (`groups`: their sizes, in order): a tag for one bit of a group makes the others absent. Bits that no tag
    names are not stated.
    """
    wanted = torch.tensor([[bit in row for bit in bits] for row in tags], dtype=torch.bool)
    unwanted = torch.tensor(
        [[f"{NOT}{bit}" in row for bit in bits] for row in tags], dtype=torch.bool
    )
    stated = wanted.clone()
    start = 0
    for size in groups:
        members = slice(start, start + size)
        stated[:, members] = wanted[:, members].any(1, keepdim=True)
        start += size
    return stated | unwanted, wanted


def write(catalogue: Catalogue, folder: Path) -> None:
    """Write the catalogue into the folder, which is created if it is missing."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"prompt_embeds": catalogue.prompt_embeds.half().contiguous()}
    for name in ("stated", "wanted"):
        part: Tensor | None = getattr(catalogue, name)
        if part is not None:
            tensors[name] = part.to(torch.uint8).contiguous()
    atomic.make_file(folder / TENSORS, lambda path: save_file(tensors, path))
    index = {
        "encoder_fingerprint": catalogue.encoder_fingerprint,
        "variants": [
            {"slug": slug, "text": text}
            for slug, text in zip(catalogue.slugs, catalogue.texts, strict=True)
        ],
    }
    atomic.write_file(folder / INDEX, json.dumps(index, indent=1, ensure_ascii=False) + "\n")


def read_hard(folder: Path) -> dict[str, int]:
    """Return the level of each hard variant by slug: 1, or 2 for the hardest."""
    path = Path(folder) / HARD
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}


def read(folder: Path) -> Catalogue:
    """Read what `write` wrote. Raises OSError, ValueError or KeyError for anything else."""
    folder = Path(folder)
    index = json.loads((folder / INDEX).read_text("utf-8"))
    tensors = load_file(folder / TENSORS)
    return Catalogue(
        slugs=tuple(row["slug"] for row in index["variants"]),
        texts=tuple(row["text"] for row in index["variants"]),
        prompt_embeds=tensors["prompt_embeds"],
        encoder_fingerprint=index["encoder_fingerprint"],
        stated=tensors["stated"].bool() if "stated" in tensors else None,
        wanted=tensors["wanted"].bool() if "wanted" in tensors else None,
    )
