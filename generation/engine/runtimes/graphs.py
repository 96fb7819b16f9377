"""A student's networks on a CUDA device: compiled by torch, with a CUDA graph for each batch of SHAPES.

At these sizes a GPU computes faster than Python launches its kernels. A graph has a fixed shape, so other batches are
padded.

torch.compile's own graphs ("reduce-overhead") belong to the thread that recorded them, but a worker loads and generates
in different threads; therefore this module records them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from generation.engine import latents as conversions
from generation.engine.student import FoldedUNet

SHAPES = (1, 2, 4, 8, 16)
PROGRAMS = 128  # compiled at most, of U-Nets and of decoders: len(SHAPES) for each architecture and image size
RUNS = 3  # before recording; the first one compiles

Network = Callable[..., Tensor]
Record = Callable[[Network, Sequence[Tensor]], Network]


def record(network: Network, inputs: Sequence[Tensor]) -> Network:
    """Return the network as a CUDA graph for inputs of these shapes. It copies its output."""
    static = [tensor.clone() for tensor in inputs]
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(RUNS):
            network(*static)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may compute
        output = network(*static)

    def replay(*given: Tensor) -> Tensor:
        for mine, theirs in zip(static, given, strict=True):
            mine.copy_(theirs)
        graph.replay()
        return output.clone()

    return replay


class Graphs:
    def __init__(self, unet: FoldedUNet, vae: Any, *, record: Record = record) -> None:
        self._unet = torch.compile(unet, dynamic=False)
        self._decoder = torch.compile(partial(conversions.latents_to_image, vae), dynamic=False)
        self._record = record
        self._recorded: dict[tuple[Any, ...], Network] = {}
        self._dtype = unet.dtype
        self._place = unet.keyvalue_weight.device
        self._keyvalue_width = len(unet.keyvalue_weight)
        self._channels = unet.config.in_channels
        # The step is an input, so that all steps share a graph.
        self._steps = [torch.tensor(step, device=self._place) for step in range(unet.steps)]

    @torch.inference_mode()
    def warm_up(self, size: tuple[int, int], *, tokens: int) -> None:
        """Compile and record for latents of this height and width; other sizes are recorded at their first batch."""
        for rows in SHAPES:
            latents, prompts = self.zeros(rows, size, tokens=tokens)
            self.denoise(latents, 0, prompts)
            self.decode(latents)

    def zeros(self, rows: int, size: tuple[int, int], *, tokens: int) -> tuple[Tensor, Tensor]:
        """Return inputs of `denoise`: latents of this height and width, and prompts."""
        latents = torch.zeros(rows, self._channels, *size, device=self._place)
        prompts = torch.zeros(
            rows, tokens, self._keyvalue_width, device=self._place, dtype=self._dtype
        )
        return latents, prompts

    def denoise(self, latents: Tensor, step: int, prompts: Tensor) -> Tensor:
        """See `Runtime.denoise`."""
        parts = zip(latents.split(SHAPES[-1]), prompts.split(SHAPES[-1]), strict=True)
        found = [
            self._run(self._unet, [_padded(part.to(self._dtype)), self._steps[step], _padded(row)])[
                : len(part)
            ]
            for part, row in parts
        ]
        return torch.cat(found).float()

    def decode(self, latents: Tensor) -> Tensor:
        """See `Runtime.decode`."""
        parts = latents.split(SHAPES[-1])
        return torch.cat([self._run(self._decoder, [_padded(part)])[: len(part)] for part in parts])

    def _run(self, network: Network, inputs: Sequence[Tensor]) -> Tensor:
        key = (id(network), *(tensor.shape for tensor in inputs))
        if key not in self._recorded:
            # torch's limit of 8 would compile one image size of one student: the programs of all count together.
            with torch.compiler.config.patch(recompile_limit=PROGRAMS):  # type: ignore[attr-defined]
                self._recorded[key] = self._record(network, inputs)
        return self._recorded[key](*inputs)


def _padded(rows: Tensor) -> Tensor:
    """Return the rows padded with copies of the last one to the next of SHAPES."""
    missing = next(shape for shape in SHAPES if shape >= len(rows)) - len(rows)
    return torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])])
