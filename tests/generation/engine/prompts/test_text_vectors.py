"""Vectors of texts, with a real toy encoder: position in the stored embedding, truncation of long texts."""

import numpy as np
import pytest

from generation.engine.prompts import encoder, tokens
from generation.engine.prompts.text_vectors import TextVectors
from tests import tiny

TEXT = "a red glass vase on a wooden table"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("text-vectors") / "tiny"
    tiny.make_tiny_release(path)
    return path


@pytest.fixture(scope="module")
def loaded(folder):
    return encoder.load(folder)


@pytest.fixture(scope="module")
def vectors(loaded, folder) -> TextVectors:
    return TextVectors(loaded, folder)


def test_the_vector_is_the_row_of_the_end_of_text_token_alone(vectors, loaded, folder):
    (stored,) = loaded.encode([TEXT])
    first = vectors.offset(TEXT)

    read = vectors.read(stored.data[first : first + vectors.bytes])

    end = tokens.load_tokenizer(folder).encode(TEXT).tokens.index("<|endoftext|>")
    row = np.frombuffer(stored.data, "<f2").reshape(stored.shape)[end]
    assert np.allclose(read, row / np.linalg.norm(row.astype(np.float32)), atol=1e-3)
    assert np.array_equal(read, vectors.encode(TEXT))
    assert np.linalg.norm(read) == pytest.approx(1)


def test_other_words_give_another_vector(vectors):
    same, other = vectors.encode("a red bowl"), vectors.encode("a blue bowl")
    assert float(vectors.encode("a  RED bowl") @ same) == pytest.approx(1, abs=1e-3)
    assert float(other @ same) < 0.999


def test_a_text_that_is_too_long_gives_the_vector_of_its_beginning(vectors):
    words = " ".join(["unheard"] * 12)
    assert vectors.count(words) > vectors.max_tokens
    assert np.isfinite(vectors.encode(words)).all()
    assert np.isfinite(vectors.encode("x" * 300)).all()
    assert np.isfinite(vectors.encode("🙂" * 300)).all()


def test_a_word_without_a_token_of_its_own_is_split(vectors):
    assert not vectors.is_split("vase")
    assert vectors.is_split("vases") and vectors.is_split("🙂")


@pytest.mark.parametrize(
    "damaged", [b"\0\0", b"\xff\xff", b"\0\x7c"]
)  # zero, not a number, infinite
def test_a_damaged_embedding_has_a_zero_vector(vectors, damaged):
    assert not vectors.read(damaged * vectors.width).any()
