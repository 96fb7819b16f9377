"""Text encoder: embeddings of texts, and its fingerprint."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer
from transformers.models.clip.modeling_clip import CLIPTextModel

from generation.engine import release
from generation.engine.errors import ReleaseInvalid, TextTooLong
from generation.engine.prompts import encoder as encoders
from generation.engine.prompts.embeddings import unpack
from generation.engine.prompts.encoder import Encoder
from tests import tiny


def test_an_embedding_equals_that_of_stable_diffusion(tiny_release: Path, encoder: Encoder) -> None:
    text = "a red glass vase on a wooden table"
    tokenizer = CLIPTokenizer.from_pretrained(tiny_release / "tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(tiny_release / "text_encoder")
    ids = tokenizer(text, padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = text_encoder(ids).last_hidden_state[0].numpy()
    assert np.allclose(unpack(encoder.encode([text])[0]), expected, atol=2e-3)


def test_the_encoder_has_its_fingerprint_and_shape(tiny_release: Path, encoder: Encoder) -> None:
    assert encoder.fingerprint == release.encoder_fingerprint(tiny_release)
    assert encoder.shape == (77, 32) == encoder.encode(["red"])[0].shape
    assert encoder.encode(["red"])[0].encoder_fingerprint == encoder.fingerprint


def test_more_texts_than_a_batch_stay_in_order(encoder: Encoder) -> None:
    words = tiny.WORDS.split()
    texts = [f"a {first} {second}" for first in words[:12] for second in words[:12]]
    assert len(texts) > encoders.BATCH
    together = encoder.encode(texts)
    for index in (0, 63, 64, 143):
        alone = encoder.encode([texts[index]])[0]
        assert np.allclose(unpack(together[index]), unpack(alone), atol=4e-3)


def test_a_text_that_would_be_truncated_is_refused(encoder: Encoder) -> None:
    assert encoder.encode(["red " * 75])
    with pytest.raises(TextTooLong, match="78 tokens; the limit is 77"):
        encoder.encode(["red", "red " * 76])


def test_no_texts_give_no_embeddings(encoder: Encoder) -> None:
    assert encoder.encode([]) == []


def test_a_release_without_an_encoder_is_refused(tmp_path: Path) -> None:
    tiny.make_tiny_release(tmp_path / "student", kind="student", has_encoder=False)
    with pytest.raises(ReleaseInvalid, match="has no text encoder"):
        encoders.load(tmp_path / "student")


def test_an_altered_encoder_is_refused(tmp_path: Path) -> None:
    tiny.make_tiny_release(tmp_path / "release")
    path = tmp_path / "release/text_encoder/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ReleaseInvalid, match="SHA-256 differs"):
        encoders.load(tmp_path / "release")
