"""Program that measures a student with each runtime on the CPU and prints JSON. Its memory is freed when it ends.

python -m generation.engine.runtimes.measurement FOLDER DTYPE THREADS [CACHE]
"""

import json
import statistics
import sys
import time
from pathlib import Path

import torch

from generation.engine import device as devices
from generation.engine import release as releases
from generation.engine.release import Manifest
from generation.engine.runtimes import Runtime, conversion
from generation.engine.runtimes import torch as reference
from generation.engine.runtimes.openvino import OpenVINORuntime

BATCHES = (1, 8)  # batch sizes to time
RUNS = 5
SECONDS = 2.0  # per batch size and runtime, after which no further run starts


def main(folder: Path, dtype: str, threads: int, cache: Path | None) -> None:
    manifest = releases.read(folder)
    device = devices.choose("cpu", dtype, threads=threads)
    with conversion.scratch(cache) as scratch:
        made = scratch / conversion.key(folder, manifest)
        conversion.make(folder, made)
        if cache is not None:
            conversion.keep(made, cache)
        runtimes: dict[str, Runtime] = {
            "torch": reference.load(folder, manifest, device),
            "openvino": OpenVINORuntime(folder, manifest, device, threads=threads, cache=scratch),
        }
        found = {name: seconds(runtime, manifest) for name, runtime in runtimes.items()}
    sys.stdout.write(json.dumps(found) + "\n")


@torch.inference_mode()
def seconds(runtime: Runtime, manifest: Manifest) -> dict[int, float]:
    """Return the median seconds of one step and the decoder, by batch size."""
    width, height = (side // runtime.pixels_per_latent for side in manifest.image_sizes[0])
    embedding = torch.zeros(manifest.embedding_shape, dtype=runtime.dtype)
    row = runtime.keyvalues(embedding) if runtime.keyvalues else embedding
    found = {}
    for batch in BATCHES:
        latents = torch.zeros(batch, runtime.latent_channels, height, width)
        prompts = row.expand(batch, *row.shape).contiguous()
        spans: list[float] = []
        ends = time.monotonic() + SECONDS
        while len(spans) < 2 or (len(spans) <= RUNS and time.monotonic() < ends):
            started = time.perf_counter()
            runtime.decode(runtime.denoise(latents, 0, prompts))
            spans.append(time.perf_counter() - started)
        found[batch] = statistics.median(spans[1:])  # the first run selects kernels
    return found


if __name__ == "__main__":
    _, folder, dtype, threads, *cache = sys.argv
    main(Path(folder), dtype, int(threads), Path(cache[0]) if cache else None)
