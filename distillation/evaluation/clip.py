"""A CLIP of transformers: features of pictures and of texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

BATCH = 64  # pictures or texts at once
TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
STAGES = 3  # layers whose states are compared, evenly spread, including the last


@dataclass(frozen=True)
class Clip:
    """The networks with their preprocessing of pictures and texts."""

    name: str
    clip: CLIPModel
    processor: CLIPImageProcessor
    tokenizer: CLIPTokenizer

    @torch.inference_mode()
    def image_features(self, images: Tensor) -> Tensor:
        """Return features of length 1, fp32 [N, d]. images: uint8 [N, 3, height, width]."""
        parts = [
            self.clip.get_image_features(pixel_values=self._pixels(batch)).pooler_output
            for batch in images.split(BATCH)
        ]
        return functional.normalize(torch.cat(parts).float(), dim=1).cpu()

    @torch.inference_mode()
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Return features of length 1, fp32 [N, d]. Raises ValueError for a text that does not fit."""
        most = self.clip.config.text_config.max_position_embeddings
        parts = []
        for start in range(0, len(texts), BATCH):
            rows = self.tokenizer(list(texts[start : start + BATCH]), padding=True)["input_ids"]
            if len(rows[0]) > most:
                raise ValueError(
                    f"{self.name} takes texts of {most} tokens; one of the prompts has {len(rows[0])}."
                )
            ids = torch.tensor(rows, device=self.clip.device)
            parts.append(self.clip.get_text_features(input_ids=ids).pooler_output)
        return functional.normalize(torch.cat(parts).float(), dim=1).cpu()

    @torch.inference_mode()
    def maps(self, images: Tensor) -> list[Tensor]:
        """Return the states of the patches after STAGES layers of the image tower, fp32 [N, width, patches] each."""
        states = self.clip.vision_model(
            pixel_values=self._pixels(images), output_hidden_states=True
        ).hidden_states
        layers = len(states) - 1  # the first are the embeddings
        chosen = sorted({-(-layers * number // STAGES) for number in range(1, STAGES + 1)})
        # Without the first token, which represents the whole picture.
        return [states[layer][:, 1:].transpose(1, 2).float().cpu() for layer in chosen]

    def _pixels(self, images: Tensor) -> Tensor:
        arrays = list(images.permute(0, 2, 3, 1).numpy())
        values = self.processor(images=arrays, return_tensors="pt")["pixel_values"]
        return values.to(self.clip.device, self.clip.dtype)


def load(name: str | Path, *, tokenizer: Path | None = None, device: str = "cpu") -> Clip:
    """Load a CLIP in fp32 from a folder or by its name on the hub. Raises OSError or ValueError if it is not one.

    tokenizer: a folder, for a CLIP whose own folder contains none.
    """
    folder = Path(name)
    local: dict[str, Any] = {"local_files_only": True} if folder.is_dir() else {}
    transformers_logging.disable_progress_bar()
    clip = CLIPModel.from_pretrained(name, dtype=torch.float32, use_safetensors=True, **local)
    if folder.is_dir() and not any((folder / file).exists() for file in TOKENIZER_FILES):
        if tokenizer is None:
            raise ValueError(f"{folder} contains no tokenizer. Give the folder of one.")
        words = CLIPTokenizer.from_pretrained(tokenizer, local_files_only=True)
    else:
        words = CLIPTokenizer.from_pretrained(name, **local)
    if len(words) > clip.config.text_config.vocab_size:
        raise ValueError(
            f"The tokenizer has {len(words)} tokens, {name} reads {clip.config.text_config.vocab_size}: they do not "
            "belong together."
        )
    processor = CLIPImageProcessor.from_pretrained(name, **local)
    return Clip(
        folder.name if folder.is_dir() else str(name),
        clip.requires_grad_(False).eval().to(device),
        processor,
        words,
    )
