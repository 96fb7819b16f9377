"""Stored embeddings: packed as fp16, unpacked, gathered into a batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from generation.engine.errors import EmbeddingInvalid
from generation.engine.prompts import embeddings
from generation.engine.prompts.embeddings import EmbeddingTable
from generation.engine.request import StoredEmbedding

FINGERPRINT = "f" * 64


def stored(number: int = 0) -> StoredEmbedding:
    values = np.random.default_rng(number).normal(size=(5, 4)).astype(np.float32)
    return embeddings.pack(values, FINGERPRINT)


def test_unpacking_returns_the_packed_values_rounded_to_fp16() -> None:
    values = np.random.default_rng(0).normal(size=(5, 4))
    packed = embeddings.pack(values, FINGERPRINT)
    assert (packed.shape, packed.dtype, packed.encoder_fingerprint) == (
        (5, 4),
        "float16",
        FINGERPRINT,
    )
    assert np.array_equal(embeddings.unpack(packed), values.astype(np.float16))


@pytest.mark.parametrize(
    "change",
    [
        {"data": b"\0" * 40},
        {"data": b"short"},
        {"shape": (4, 4)},
        {"dtype": "float32"},
        {"sha256": "0" * 64},
    ],
)
def test_a_damaged_embedding_is_refused(change: dict) -> None:
    with pytest.raises(EmbeddingInvalid):
        embeddings.unpack(replace(stored(), **change))


@pytest.mark.parametrize("values", [np.full((2, 2), 1e6), np.full((2, 2), np.nan), np.zeros(4)])
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_values_outside_fp16_are_not_packed(values: np.ndarray) -> None:
    with pytest.raises(EmbeddingInvalid):
        embeddings.pack(values, FINGERPRINT)


def test_a_batch_is_gathered_in_order_with_repeats() -> None:
    table = EmbeddingTable(torch.device("cpu"), torch.float32)
    batch = [stored(1), stored(2), stored(1)]
    gathered = table.gather(batch)
    assert gathered.shape == (3, 5, 4)
    for row, embedding in zip(gathered, batch, strict=True):
        assert np.array_equal(row.numpy(), embeddings.unpack(embedding).astype(np.float32))
    assert len(table) == 2


def test_the_table_evicts_the_least_recently_used_rows_but_none_of_the_batch() -> None:
    table = EmbeddingTable(torch.device("cpu"), torch.float32, max_bytes=3 * 5 * 4 * 4)
    table.gather([stored(1), stored(2), stored(3)])
    table.add(stored(1))
    table.add(stored(4))
    assert set(table._rows) == {stored(number).sha256 for number in (1, 3, 4)}
    large = [stored(number) for number in range(10, 18)]
    assert table.gather(large).shape == (8, 5, 4)
    assert len(table) == 3


def test_a_damaged_embedding_never_becomes_resident() -> None:
    table = EmbeddingTable(torch.device("cpu"), torch.float32)
    with pytest.raises(EmbeddingInvalid):
        table.gather([replace(stored(), sha256="0" * 64)])
    assert len(table) == 0
