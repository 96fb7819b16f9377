"""Runtime of OpenVINO, for students on CPUs."""

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from generation.engine.device import Device
from generation.engine.errors import OutOfMemory
from generation.engine.release import Manifest
from generation.engine.runtimes import KeyValues, conversion

import openvino  # isort: skip  (after `conversion`, which keeps it from sending usage data)


PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}
# Parts of its messages "can't alloc", "Failed to allocate", "bad_alloc".
NO_MEMORY = ("alloc", "out of memory")


class OpenVINORuntime:
    name = "openvino"
    dtype = torch.float32  # of inputs and outputs; it computes in the device's

    def __init__(
        self, folder: Path, manifest: Manifest, device: Device, *, threads: int, cache: Path | None
    ) -> None:
        """threads: number of computing threads. Raises the same as `runtimes.torch.load`."""
        converted = conversion.convert(folder, manifest, cache)
        options = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": PRECISIONS[device.dtype],
            "PERFORMANCE_HINT": "LATENCY",
            # Pinning would bind the calling thread to one core, and torch's pool would inherit that.
            "ENABLE_CPU_PINNING": False,
        }
        core = openvino.Core()
        self._unet = _Network(core.compile_model(converted.unet, "CPU", options))
        self._decoder = _Network(core.compile_model(converted.decoder, "CPU", options))
        self._has_steps = len(converted.unet.inputs) == 3
        self.latent_channels: int = converted.unet.inputs[0].partial_shape[1].get_length()
        self.pixels_per_latent = converted.pixels_per_latent
        self.keyvalues: KeyValues | None = partial(F.linear, weight=converted.keyvalue_weight)

    def denoise(self, latents: Tensor, step: int, prompts: Tensor) -> Tensor:
        if self._has_steps:
            return self._unet(latents, prompts, torch.tensor(step))
        return self._unet(latents, prompts)

    def decode(self, latents: Tensor) -> Tensor:
        return self._decoder(latents)


class _Network:
    def __init__(self, compiled: "openvino.CompiledModel") -> None:
        self._compiled = compiled
        self._request = compiled.create_infer_request()

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Run the network and return a copy of its only output. Raises OutOfMemory."""
        try:
            found = self._request.infer(
                [tensor.contiguous().numpy() for tensor in inputs], share_inputs=True
            )
        except (RuntimeError, MemoryError) as error:
            # After a failure its next run may assume memory that was not allocated.
            self._request = self._compiled.create_infer_request()
            if isinstance(error, MemoryError) or any(word in str(error) for word in NO_MEMORY):
                raise OutOfMemory(str(error).strip().splitlines()[-1]) from error
            raise
        return torch.from_numpy(found[0])
