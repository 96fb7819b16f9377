"""A tiny release, its encoder and requests for it, shared per process. Tests must not write into them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from generation.engine.prompts import encoder as encoders
from generation.engine.prompts.encoder import Encoder
from generation.engine.request import GenerationRequest, StoredEmbedding
from tests import tiny

TEXTS = (
    "a red glass vase on a wooden table",
    "a blue clay mug",
    "an orange metal ring on a marble slab",
)


@pytest.fixture(scope="session")
def tiny_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "release"
    tiny.make_tiny_release(path)
    return path


@pytest.fixture(scope="session")
def encoder(tiny_release: Path) -> Encoder:
    return encoders.load(tiny_release)


@pytest.fixture(scope="session")
def embeddings(encoder: Encoder) -> list[StoredEmbedding]:
    """Embeddings of TEXTS. Every tiny release has the same encoder, so they are valid for all of them."""
    return encoder.encode(TEXTS)


@pytest.fixture(scope="session")
def request_for(embeddings: list[StoredEmbedding]) -> Callable[[int], GenerationRequest]:
    """Return a function that makes the n-th of a series of requests with different texts and seeds."""

    def make(number: int, *, size: int = 64) -> GenerationRequest:
        return GenerationRequest(embeddings[number % len(embeddings)], 100 + number, size, size)

    return make
