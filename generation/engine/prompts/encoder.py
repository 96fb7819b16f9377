"""Text encoding on a CPU with a release's tokenizer and text encoder. Not used by generation workers."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers.models.clip.modeling_clip import CLIPTextModel
from transformers.utils import logging as transformers_logging

from generation.engine import release as releases
from generation.engine.errors import ReleaseInvalid, TextTooLong
from generation.engine.prompts import tokens
from generation.engine.prompts.embeddings import pack
from generation.engine.request import StoredEmbedding

BATCH = 64  # texts per batch: larger batches are no faster on a CPU


def load(release_dir: Path | str) -> "Encoder":
    """Verify and load the tokenizer and the text encoder of a release. Raises ReleaseInvalid."""
    folder = Path(release_dir)
    manifest = releases.verify(folder, without=("unet", "vae"))
    if not manifest.has_encoder:
        raise ReleaseInvalid(f"{folder} has no text encoder. Use the teacher of this release.")
    return load_parts(folder, manifest.encoder_fingerprint)


def load_parts(folder: Path, fingerprint: str) -> "Encoder":
    """Load the encoder from a folder without a manifest, unverified. Raises ReleaseInvalid."""
    transformers_logging.disable_progress_bar()  # Retort shows its own
    try:
        # fp32: native CPU arithmetic; the result is rounded to fp16 once, when it is stored.
        text_encoder, info = CLIPTextModel.from_pretrained(
            folder / "text_encoder",
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
        if missing := sorted(info["missing_keys"]):  # otherwise they stay random
            raise ValueError(f"the weights lack {', '.join(missing[:3])}")
    except (OSError, ValueError, RuntimeError) as error:
        raise ReleaseInvalid(f"{folder / 'text_encoder'} cannot be loaded: {error}") from error
    return Encoder(folder, fingerprint, text_encoder)


class Encoder:
    """A text encoder. shape: (tokens, width) of every embedding."""

    def __init__(self, folder: Path, fingerprint: str, text_encoder: CLIPTextModel) -> None:
        self.fingerprint = fingerprint
        self.shape = (tokens.limit(folder), int(text_encoder.config.hidden_size))
        self._text_encoder = text_encoder.requires_grad_(False).eval()
        self._tokenizer = tokens.load_tokenizer(folder)
        self._pad = tokens.pad_token_id(folder)

    def encode(self, texts: Sequence[str]) -> list[StoredEmbedding]:
        """Return embeddings of the texts, in order. Raises TextTooLong: check with `tokens.count_tokens` first."""
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
                raise TextTooLong(
                    f"{text!r:.100} has {len(encoding.ids)} tokens; the limit is {limit}."
                )
            rows.append(encoding.ids + [self._pad] * (limit - len(encoding.ids)))
        # No attention mask: Stable Diffusion's text encoder is always used without one.
        output = self._text_encoder(input_ids=torch.tensor(rows)).last_hidden_state
        return [pack(row, self.fingerprint) for row in output.numpy()]
