"""Self-test of a loaded pipeline with one image: it fails on a broken device, but not because of a bad request."""

import time
from collections.abc import Collection

import numpy as np

from generation.engine.errors import DeviceFailed
from generation.engine.pipeline import Pipeline
from generation.engine.prompts.embeddings import pack
from generation.engine.request import GenerationRequest

SECONDS = 5.0  # after which the remaining steps are skipped: a slow device need not finish


def run(loaded: Pipeline, *, images: int = 1) -> None:
    """Generate a batch from an embedding of zeros. Raises DeviceFailed for any error."""
    ends = time.monotonic() + SECONDS

    def on_step(step: int, steps: int) -> Collection[int]:
        return range(images) if time.monotonic() > ends else ()

    try:
        manifest = loaded.manifest
        embedding = pack(np.zeros(manifest.embedding_shape), manifest.encoder_fingerprint)
        requests = [
            GenerationRequest(embedding, seed, *manifest.image_sizes[0]) for seed in range(images)
        ]
        results = loaded.generate(requests, on_step=on_step)
        loaded.device.synchronize()
        for result in results:
            if result.error is not None:
                raise result.error
    except Exception as error:
        raise DeviceFailed(f"A test image failed: {str(error) or repr(error)}") from error
