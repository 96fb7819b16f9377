"""A process that generates on demand, with stock diffusers or the engine, and answers in JSON lines.

    python -m tests.bench.subject stock FOLDER DEVICE DTYPE GUIDANCE TEXT …
    python -m tests.bench.subject engine FOLDER DEVICE RUNTIME CACHE

Each line of stdin is a request, answered by one line: `{"images": n, "batch": b, "steps": s}` makes n times b pictures;
the engine takes the steps of its release.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any, Protocol

FIRST_SEED = 1_000
PROMPTS = 2


class Subject(Protocol):
    def images(self, count: int, batch: int, steps: int) -> dict[str, Any]: ...


class Stock:
    """diffusers' own StableDiffusionPipeline, used as its documentation shows."""

    def __init__(self, folder: str, device: str, dtype: str, guidance: str, *texts: str) -> None:
        import torch
        from diffusers import DDIMScheduler, StableDiffusionPipeline
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging

        diffusers_logging.disable_progress_bar()
        transformers_logging.disable_progress_bar()
        self.torch = torch
        self.pipe = StableDiffusionPipeline.from_pretrained(
            folder,
            torch_dtype=getattr(torch, dtype),
            local_files_only=True,
            safety_checker=None,
            requires_safety_checker=False,
        )
        if not isinstance(self.pipe.scheduler, DDIMScheduler):
            self.pipe.scheduler = DDIMScheduler.from_config(self.pipe.scheduler.config)
        self.pipe.to(device)
        self.pipe.set_progress_bar_config(disable=True)
        self.guidance_scale = float(guidance)
        self.texts = texts
        self.made = 0

    def images(self, count: int, batch: int, steps: int) -> dict[str, Any]:
        """Return the seconds of each call from texts to Pillow images, and of its parts."""
        seconds, parts = [], []
        for _ in range(count):
            marks: list[float] = []

            def mark(
                pipe: Any, step: int, timestep: int, tensors: dict[str, Any]
            ) -> dict[str, Any]:
                marks.append(time.perf_counter())  # noqa: B023  used up before the next turn
                return tensors

            numbers = range(self.made, self.made + batch)
            self.made += batch
            started = time.perf_counter()
            self.pipe(
                [self.texts[number % len(self.texts)] for number in numbers],
                num_inference_steps=steps,
                guidance_scale=self.guidance_scale,
                generator=[self.torch.Generator().manual_seed(FIRST_SEED + n) for n in numbers],
                callback_on_step_end=mark,
            )
            ended = time.perf_counter()
            seconds.append(ended - started)
            decoder = ended - marks[-1]
            if steps == 1:
                parts.append({"text and U-Net": marks[0] - started, "decoder": decoder})
                continue
            step = (marks[-1] - marks[0]) / (steps - 1)
            before = marks[0] - started - step  # the text, twice with guidance
            parts.append({"before": before, "step": step, "decoder": decoder})
        return {"seconds": seconds, "parts": parts}


class Engine:
    """The engine with a student's bundle."""

    def __init__(self, folder: str, device: str, runtime: str, cache: str) -> None:
        from safetensors.numpy import load_file

        from generation.engine import files, pipeline, request
        from generation.engine.prompts import embeddings
        from generation.engine.release import PROMPT_EMBEDS

        self.request, self.files = request, files
        self.loaded = pipeline.load(folder, device=device, runtime=runtime, cache=Path(cache))
        manifest = self.loaded.manifest
        self.size = manifest.image_sizes[0]
        # As many as the texts for stock diffusers; their keys and values are cached after the first picture.
        rows = load_file(Path(folder) / PROMPT_EMBEDS)["prompt_embeds"][:PROMPTS]
        self.prompts = [embeddings.pack(row, manifest.encoder_fingerprint) for row in rows]
        self.made = 0
        self.images(1, batch=len(self.prompts), steps=0)

    def images(self, count: int, batch: int, steps: int) -> dict[str, Any]:
        """Return the seconds of each call from requests to pixels, without files, and of its parts."""
        seconds, parts = [], []
        for _ in range(count):
            requests = [
                self.request.GenerationRequest(
                    self.prompts[number % len(self.prompts)], FIRST_SEED + number, *self.size
                )
                for number in range(self.made, self.made + batch)
            ]
            self.made += batch
            timings = self.request.Timings()
            started = time.perf_counter()
            results = self.loaded.generate(requests, timings=timings)
            ended = time.perf_counter()
            for result in results:
                if result.pixels is None:
                    raise result.error or RuntimeError("no pixels")
                self.files.encode(result.pixels, "webp")
            seconds.append(ended - started)
            parts.append(
                {
                    "U-Net": timings.unet_seconds,
                    "decoder": timings.decoder_seconds,
                    "file": time.perf_counter() - ended,
                }
            )
        return {"seconds": seconds, "parts": parts, "device": self.loaded.describe()}


class Libraries:
    """Only the imports that the other two share: the lower bound of their memory."""

    def __init__(self) -> None:
        import generation.engine.pipeline  # noqa: F401

    def images(self, count: int, batch: int, steps: int) -> dict[str, Any]:
        return {}


KINDS: dict[str, Any] = {"stock": Stock, "engine": Engine, "libraries": Libraries}


def main(kind: str, *arguments: str) -> None:
    import generation.engine  # noqa: F401  before torch: it sets how long OpenMP may spin, for both

    started = time.perf_counter()
    subject: Subject = KINDS[kind](*arguments)
    print(json.dumps({"load_seconds": time.perf_counter() - started}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        answer = subject.images(order["images"], order["batch"], order["steps"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
