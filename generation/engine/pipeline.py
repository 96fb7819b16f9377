"""Batched inference with a loaded release: requests to pixels.

A request gives the same image at any batch size: noise comes from one CPU generator per image. Only rounding depends on
the shape of the batch; pixels differ by at most TOLERANCE (of 255), depending on the U-Net's dtype.
"""

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file

from generation.engine import device as devices
from generation.engine import latents as conversions
from generation.engine import release as releases
from generation.engine import sampling
from generation.engine.device import Device
from generation.engine.errors import (
    DeviceFailed,
    EmbeddingMismatch,
    EngineError,
    NotFinite,
    OutOfMemory,
    ReleaseInvalid,
    SizeNotSupported,
)
from generation.engine.prompts.embeddings import RESIDENT_BYTES, EmbeddingTable, check
from generation.engine.release import ENCODER_FOLDERS, NEGATIVE_EMBEDS, Manifest
from generation.engine.request import GenerationRequest, GenerationResult, Timings
from generation.engine.runtimes import Runtime, selection

TOLERANCE = {"float32": 2, "bfloat16": 8, "float16": 8}
DECODED_PIXELS = 8 * 512 * 512  # limit per VAE call, whose activations are the memory peak
KEYVALUE_BYTES = 512 * 2**20  # resident; 2 MB per prompt variant of Stable Diffusion 1.5
OnStep = Callable[[int, int], Collection[int]]
Rows = list[int]
Pixels = npt.NDArray[np.uint8]


class Previews(Protocol):
    """Receiver of previews during generation. It has no effect on the images."""

    def wanted(self, step: int, steps: int) -> Collection[int]:
        """Return the indexes of the requests to preview. Called after each step except the last."""

    def show(self, step: int, steps: int, pixels: Mapping[int, Pixels], seconds: float) -> None:
        """Receive predicted final images, uint8 (height, width, 3), and the seconds that making them took."""

    def failed(self, error: Exception) -> None:
        """Handle a failure of previews. `wanted` is not called again in this batch."""


def load(
    release_dir: Path | str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    threads: int = 0,
    runtime: str = "torch",
    generating_threads: int | None = None,
    cache: Path | None = None,
) -> "Pipeline":
    """Load a release onto a device. Raises ReleaseInvalid, DeviceUnavailable and OutOfMemory.

    threads: CPU threads for torch in this thread, 0 = torch's choice; generating_threads: the same for the thread that
    will generate, if different. runtime: one of `runtimes.NAMES`; cache: folder for conversions and measurements.
    """
    folder = Path(release_dir)
    chosen = devices.choose(device, dtype, threads=threads)
    # The text encoder is not loaded here, so its gigabytes are not hashed.
    manifest = releases.verify(folder, without=ENCODER_FOLDERS)
    try:
        config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text("utf-8"))
        config["prediction_type"] = manifest.prediction_type
        sampling.check(manifest.noise_scheduler, config, manifest.timesteps)
        loaded = selection.load(
            folder,
            manifest,
            chosen,
            name=runtime,
            threads=devices.thread_count(
                threads if generating_threads is None else generating_threads
            ),
            cache=cache,
        )
        negative = None
        if manifest.guidance_scale != 1:
            stored = load_file(folder / NEGATIVE_EMBEDS)["negative_prompt_embeds"]
            negative = stored.to(chosen.place, loaded.dtype)
    except EngineError:
        raise
    except torch.AcceleratorError as error:
        raise DeviceFailed(str(error)) from error
    except Exception as error:  # an invalid configuration can raise anything
        if _is_out_of_memory(error):
            raise OutOfMemory(str(error)) from error
        raise ReleaseInvalid(f"{folder}: {str(error) or repr(error)}") from error
    if negative is not None and tuple(negative.shape) != manifest.embedding_shape:
        raise ReleaseInvalid(
            f"{NEGATIVE_EMBEDS} has the shape {tuple(negative.shape)}, not {manifest.embedding_shape}."
        )
    return Pipeline(manifest, chosen, loaded, config, negative)


class Pipeline:
    """One release on one device. Not thread-safe."""

    def __init__(
        self,
        manifest: Manifest,
        device: Device,
        runtime: Runtime,
        scheduler_config: dict[str, Any],
        negative_prompt_embeds: torch.Tensor | None,
    ) -> None:
        self.manifest = manifest
        self.device = device
        self.runtime = runtime
        # For a student keys and values are cached, since they depend only on the prompt.
        derive = runtime.keyvalues
        self.embeddings = EmbeddingTable(
            device.place,
            runtime.dtype,
            max_bytes=KEYVALUE_BYTES if derive else RESIDENT_BYTES,
            derive=derive,
        )
        self._scheduler_config = scheduler_config
        self._negative = negative_prompt_embeds

    @property
    def dtype(self) -> torch.dtype:
        return self.device.dtype

    def describe(self) -> str:
        """Return device, dtype and runtime as text."""
        return f"{self.device.describe()}, {self.runtime.name}"

    @torch.inference_mode()
    def generate(
        self,
        requests: Sequence[GenerationRequest],
        *,
        on_step: OnStep | None = None,
        previews: Previews | None = None,
        timings: Timings | None = None,
    ) -> list[GenerationResult]:
        """Generate images of one size. Return results in the order of the requests.

        on_step(step, steps) is called after each step and returns the indexes of requests to drop; their results have
        neither pixels nor an error. An exception from it stops the batch. A request that is invalid, or too large for
        the device even alone, has an error in its result; the others continue. previews: receives images between the
        steps. Raises SizeNotSupported.
        """
        return _Batch(self, requests, on_step, previews, timings or Timings()).run()


class _Batch:
    """One call of `Pipeline.generate`: rows are indexes into its requests."""

    def __init__(
        self,
        pipeline: Pipeline,
        requests: Sequence[GenerationRequest],
        on_step: OnStep | None,
        previews: Previews | None,
        timings: Timings,
    ) -> None:
        self.pipeline = pipeline
        self.manifest = pipeline.manifest
        self.device = pipeline.device
        self.requests = requests
        self.on_step = on_step
        self.previews = previews
        self.timings = timings
        self.dropped: set[int] = set()
        self.errors: dict[int, EngineError] = {}
        self.latents: dict[int, torch.Tensor] = {}
        self.pixels: dict[int, Pixels] = {}

    def run(self) -> list[GenerationResult]:
        self._check_sizes()
        rows = [row for row in range(len(self.requests)) if self._accepts(row)]
        self._halving(rows, self._denoise)
        rows = [row for row in self.latents if row not in self.dropped]
        for part in self._decoded_at_once(rows):
            self._halving(part, self._decode)
        return [
            GenerationResult(request, self.pixels.get(row), self.errors.get(row))
            for row, request in enumerate(self.requests)
        ]

    def _decoded_at_once(self, rows: Rows) -> list[Rows]:
        if not rows:
            return []
        width, height = self.requests[0].width, self.requests[0].height
        chunk = max(1, DECODED_PIXELS // (width * height))
        return [rows[start : start + chunk] for start in range(0, len(rows), chunk)]

    def _check_sizes(self) -> None:
        sizes = {(request.width, request.height) for request in self.requests}
        if len(sizes) > 1:
            raise SizeNotSupported(
                f"All images of a batch must have one size, not {sorted(sizes)}."
            )
        if unknown := sizes - set(self.manifest.image_sizes):
            raise SizeNotSupported(f"{unknown.pop()} is not one of {self.manifest.image_sizes}.")

    def _accepts(self, row: int) -> bool:
        stored = self.requests[row].embedding
        try:
            if stored.encoder_fingerprint != self.manifest.encoder_fingerprint:
                raise EmbeddingMismatch
            if stored.shape != self.manifest.embedding_shape:
                raise EmbeddingMismatch(
                    f"Its shape is {stored.shape}, not {self.manifest.embedding_shape}."
                )
            check(stored)
        except EngineError as error:
            self.errors[row] = error
            return False
        return True

    def _halving(self, rows: Rows, work: Callable[[Rows], None]) -> None:
        """Process the rows as one batch, or as two halves if the device runs out of memory."""
        waiting = [rows] if rows else []
        while waiting:
            part = waiting.pop(0)
            try:
                work(part)
                continue
            except OutOfMemory as error:
                message = error.detail
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                message = str(error).splitlines()[0]
            # Outside `except`, whose traceback would keep the large tensors alive.
            self.device.empty_cache()
            if len(part) == 1:
                self.errors[part[0]] = OutOfMemory(message)
            else:
                half = (len(part) + 1) // 2
                waiting[:0] = [part[:half], part[half:]]

    def _denoise(self, rows: Rows) -> None:
        """Denoise to latents, (4, height ÷ 8, width ÷ 8) per row, in fp32, since bf16 would lose small steps."""
        pipeline, manifest = self.pipeline, self.manifest
        self.timings.batches.append(len(rows))
        started = time.perf_counter()
        shown_before = self.timings.preview_seconds
        noise_scheduler = sampling.make(
            manifest.noise_scheduler, pipeline._scheduler_config, manifest.timesteps
        )
        generators = [torch.Generator().manual_seed(self.requests[row].seed) for row in rows]
        latents = self._noise(rows, generators) * noise_scheduler.init_noise_sigma
        prompt_embeds = self._prompt_embeds(rows)
        options = (
            {"generator": generators} if manifest.noise_scheduler in sampling.DRAWS_NOISE else {}
        )
        steps = len(manifest.timesteps)
        for step, timestep in enumerate(noise_scheduler.timesteps, start=1):
            model_input = noise_scheduler.scale_model_input(latents, timestep)
            output = self._predict(model_input, step - 1, prompt_embeds)
            latents = noise_scheduler.step(output, timestep, latents, return_dict=False, **options)[
                0
            ]
            if self.on_step:
                self.dropped.update(self.on_step(step, steps))
                if self.dropped.issuperset(rows):
                    return
            if self.previews is not None and step < steps:
                clean = partial(
                    sampling.predict_clean, noise_scheduler, model_input, output, timestep
                )
                self._preview(rows, step, clean)
        self.device.synchronize()
        shown_seconds = self.timings.preview_seconds - shown_before
        self.timings.unet_seconds += time.perf_counter() - started - shown_seconds
        self.latents.update(zip(rows, latents, strict=True))

    def _noise(self, rows: Rows, generators: list[torch.Generator]) -> torch.Tensor:
        request = self.requests[rows[0]]
        runtime = self.pipeline.runtime
        factor = runtime.pixels_per_latent
        shape = (
            runtime.latent_channels,
            request.height // factor,
            request.width // factor,
        )
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        return noise.to(self.device.place)

    def _prompt_embeds(self, rows: Rows) -> torch.Tensor:
        """Return prompt embeddings (batch, tokens, width), or keys and values for a folded network.

        With guidance there are twice as many rows; those of the empty text come first.
        """
        embeds = self.pipeline.embeddings.gather([self.requests[row].embedding for row in rows])
        negative = self.pipeline._negative
        if negative is None:
            return embeds
        return torch.cat([negative.expand(len(rows), -1, -1), embeds])

    def _predict(
        self, model_input: torch.Tensor, step: int, prompt_embeds: torch.Tensor
    ) -> torch.Tensor:
        """Return the U-Net's output in fp32, with guidance if the release needs it (Ho & Salimans 2022)."""
        denoise = self.pipeline.runtime.denoise
        if self.pipeline._negative is None:
            return denoise(model_input, step, prompt_embeds)
        output = denoise(torch.cat([model_input, model_input]), step, prompt_embeds)
        unguided, guided = output.chunk(2)
        return unguided + self.manifest.guidance_scale * (guided - unguided)

    def _decode(self, rows: Rows) -> None:
        started = time.perf_counter()
        pixels = self._pixels(rows, torch.stack([self.latents[row] for row in rows]))
        self.timings.decoder_seconds += time.perf_counter() - started
        self.pixels.update(pixels)
        self.errors.update({row: NotFinite() for row in rows if row not in pixels})

    def _pixels(self, rows: Rows, latents: torch.Tensor) -> dict[int, Pixels]:
        """Decode the rows and return pixels by row; rows that are not finite get an error instead."""
        images = self.pipeline.runtime.decode(latents)
        # Check latents and images, since a decoder may map NaN to a number.
        is_finite = (_is_finite(images) & _is_finite(latents)).tolist()
        pixels = conversions.to_pixels(images)
        found = zip(rows, pixels, is_finite, strict=True)
        return {row: image for row, image, is_right in found if is_right}

    def _preview(self, rows: Rows, step: int, clean: Callable[[], torch.Tensor]) -> None:
        """Send the requested previews. clean: returns predicted latents of all rows. A failure only ends previews."""
        previews, steps = self.previews, len(self.manifest.timesteps)
        if previews is None:
            return
        wanted = set(previews.wanted(step, steps)).intersection(rows) - self.dropped
        if not wanted:
            return
        self.device.synchronize()  # so that earlier work is not timed
        started = time.perf_counter()
        pixels: dict[int, Pixels] = {}
        failure: Exception | None = None
        try:
            latents = dict(zip(rows, clean(), strict=True))
            for part in self._decoded_at_once(sorted(wanted)):
                pixels |= self._pixels(part, torch.stack([latents[row] for row in part]))
        except Exception as error:
            failure = error.with_traceback(None)  # which would keep the large tensors alive
        seconds = time.perf_counter() - started
        self.timings.preview_seconds += seconds
        if failure is None:
            previews.show(step, steps, pixels, seconds)
        else:
            self.previews = None
            self.device.empty_cache()
            previews.failed(failure)


def _is_finite(tensors: torch.Tensor) -> torch.Tensor:
    return tensors.isfinite().flatten(1).all(dim=1)


def _is_out_of_memory(error: Exception) -> bool:
    # The CPU's allocator has no exception class of its own.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
