"""Photographs, a tokenizer and a CLIP at toy size, made by the production code."""

import functools
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import CLIPTokenizer

from distillation.starter import clip as clips
from distillation.starter import rendering, tokenizer
from distillation.starter.captions import captions
from distillation.starter.clip import ClipRecipe
from distillation.starter.photographs import Photographs
from distillation.starter.words import COLOURS, COMBINATIONS, TRAINED

TEXT_WIDTH = 16
SHADES = torch.tensor(
    [
        [220, 30, 30],
        [230, 140, 20],
        [230, 220, 40],
        [30, 160, 40],
        [30, 60, 220],
        [140, 40, 170],
        [240, 240, 240],
        [20, 20, 20],
    ],
    dtype=torch.uint8,
)
_CLIP = ClipRecipe(
    image_size=32,
    patch=16,
    image_width=16,
    image_layers=1,
    image_heads=2,
    image_hidden=16,
    text_width=TEXT_WIDTH,
    text_layers=2,
    text_heads=2,
    text_hidden=32,
    projection=8,
)
_holders: list[tempfile.TemporaryDirectory] = []  # removed when the process ends


def photographs(count: int, *, size: int = 32) -> Photographs:
    """Return squares in the colour of the combination on a horizontal grey gradient, so that mirroring is visible."""
    combinations = tuple(TRAINED[number * 37 % len(TRAINED)] for number in range(count))
    slope = torch.linspace(60, 200, size).to(torch.uint8)
    images = slope.expand(count, 3, size, size).clone()
    masks = torch.zeros(count, size, size, dtype=torch.uint8)
    inside = slice(size // 4, 3 * size // 4)
    masks[:, inside, inside] = 1
    for image, combination in zip(images, combinations, strict=True):
        image[:, inside, inside] = SHADES[COLOURS.index(combination.colour)][:, None, None]
    return Photographs(images, masks, combinations, tuple(range(count)))


def paint(folder: Path, sizes: Mapping[str, int]) -> None:
    """Write the shards of each split with noisy images of one colour, in place of rendering."""
    folder.mkdir(parents=True)
    for split, size in sizes.items():
        for path, batch in rendering._shards(folder, split, rendering.shots(split, size)):
            values = [COLOURS.index(shot.combination.colour) * 30 for shot in batch]
            noise = np.random.default_rng(0).integers(0, 20, (len(batch), 3, 128, 128))
            images = (np.array(values)[:, None, None, None] + noise).astype(np.uint8)
            numbers = [COMBINATIONS.index(shot.combination) for shot in batch]
            seeds = [shot.seed for shot in batch]
            about = {"combinations": json.dumps(numbers), "seeds": json.dumps(seeds)}
            masks = np.ones((len(batch), 128, 128), np.uint8)
            save_file({"images": images, "masks": masks}, path, metadata=about)


@functools.cache
def tokenizer_folder() -> Path:
    folder = _scratch()
    tokenizer.train(folder, [text for c in COMBINATIONS for text in captions(c)])
    return folder


@functools.cache
def clip_folder() -> Path:
    """Return an untrained CLIP whose token embeddings are large enough to tell words apart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        clip = clips.build(_CLIP, CLIPTokenizer.from_pretrained(tokenizer_folder()))
        with torch.no_grad():
            clip.text_model.embeddings.token_embedding.weight.normal_()
    folder = _scratch() / "clip"
    clips.save(clip, folder)
    return folder


def _scratch() -> Path:
    holder = tempfile.TemporaryDirectory(prefix="starter-toys-")
    _holders.append(holder)
    return Path(holder.name)
