"""Texts to embeddings, on a CPU, by a release's own tokenizer and text encoder. No generation worker loads it."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers.models.clip.modeling_clip import CLIPTextModel
from transformers.utils import logging as transformers_logging

from generation.engine import release as releases
from generation.engine import tokens
from generation.engine.embeddings import pack
from generation.engine.errors import ReleaseInvalid, TextTooLong
from generation.engine.request import StoredEmbedding

BATCH = 64  # texts at once: larger gains nothing on a CPU


def load(release_dir: Path | str) -> "Encoder":
    """Load the tokenizer and the text encoder of a release, which are verified first. Raises ReleaseInvalid."""
    folder = Path(release_dir)
    manifest = releases.verify(folder, without=("unet", "vae"))
    if not manifest.has_encoder:
        raise ReleaseInvalid(f"{folder} holds no text encoder. Use the teacher of this release.")
    return load_parts(folder, manifest.encoder_fingerprint)


def load_parts(folder: Path, fingerprint: str) -> "Encoder":
    """As `load`, of a folder that is not a release yet. Raises ReleaseInvalid."""
    transformers_logging.disable_progress_bar()  # ours says more
    try:
        # fp32: the CPU's native arithmetic; the rounding to fp16 happens once, when the result is stored.
        text_encoder, info = CLIPTextModel.from_pretrained(
            folder / "text_encoder",
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
        if missing := sorted(info["missing_keys"]):  # else they would stay random
            raise ValueError(f"the weights lack {', '.join(missing[:3])}")
    except (OSError, ValueError, RuntimeError) as error:
        raise ReleaseInvalid(f"{folder / 'text_encoder'} cannot be loaded: {error}") from error
    return Encoder(folder, fingerprint, text_encoder)


class Encoder:
    """One text encoder. shape: (tokens, width) of every embedding."""

    def __init__(self, folder: Path, fingerprint: str, text_encoder: CLIPTextModel) -> None:
        self.fingerprint = fingerprint
        self.shape = (tokens.limit(folder), int(text_encoder.config.hidden_size))
        self._text_encoder = text_encoder.requires_grad_(False).eval()
        self._tokenizer = tokens.load_tokenizer(folder)
        self._pad = tokens.pad_token_id(folder)

    def encode(self, texts: Sequence[str]) -> list[StoredEmbedding]:
        """Embeddings of the texts, in order. Raises TextTooLong: check with `tokens.count_tokens` first."""
        embeddings: list[StoredEmbedding] = []
        for start in range(0, len(texts), BATCH):
            embeddings += self._encode_batch(texts[start : start + BATCH])
        return embeddings

    @torch.inference_mode()
    def _encode_batch(self, texts: Sequence[str]) -> list[StoredEmbedding]:
        limit, _ = self.shape
        rows = []
        for text, encoding in zip(texts, self._tokenizer.encode_batch(list(texts)), strict=True):
            if len(encoding.ids) > limit:
                raise TextTooLong(f"{text!r:.100} has {len(encoding.ids)} tokens; {limit} fit.")
            rows.append(encoding.ids + [self._pad] * (limit - len(encoding.ids)))
        # No attention mask: Stable Diffusion's text encoder was always fed without one.
        output = self._text_encoder(input_ids=torch.tensor(rows)).last_hidden_state
        return [pack(row, self.fingerprint) for row in output.numpy()]
