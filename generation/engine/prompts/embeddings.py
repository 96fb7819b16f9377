"""Embeddings: storage format, integrity check, and a cache on the device."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from generation.engine.errors import EmbeddingInvalid
from generation.engine.request import StoredEmbedding

if TYPE_CHECKING:
    import torch

DTYPE = "float16"  # its rounding is below the precision of the text encoder
RESIDENT_BYTES = 64 * 2**20


def pack(array: npt.NDArray[Any], encoder_fingerprint: str) -> StoredEmbedding:
    """Return the stored form of a text encoder's output (tokens, width) of any float dtype. Raises EmbeddingInvalid."""
    if array.ndim != 2:
        raise EmbeddingInvalid(f"Its shape is {array.shape}, not (tokens, width).")
    if not np.isfinite(values := array.astype("<f2")).all():
        raise EmbeddingInvalid("It has values outside the range of fp16.")
    data = values.tobytes()
    tokens, width = array.shape
    return StoredEmbedding(
        data, (tokens, width), DTYPE, hashlib.sha256(data).hexdigest(), encoder_fingerprint
    )


def check(stored: StoredEmbedding) -> None:
    """Raise EmbeddingInvalid if the bytes do not match shape, dtype or hash."""
    tokens, width = stored.shape
    if stored.dtype != DTYPE:
        raise EmbeddingInvalid(f"Its dtype is {stored.dtype}, not {DTYPE}.")
    if len(stored.data) != tokens * width * 2:
        raise EmbeddingInvalid(
            f"It has {len(stored.data)} bytes; {tokens} × {width} values take {tokens * width * 2}."
        )
    if hashlib.sha256(stored.data).hexdigest() != stored.sha256:
        raise EmbeddingInvalid("Its SHA-256 differs. Encode the prompt variant again.")


def unpack(stored: StoredEmbedding) -> npt.NDArray[np.float16]:
    """Return (tokens, width), read-only. Raises EmbeddingInvalid."""
    check(stored)
    return np.frombuffer(stored.data, "<f2").reshape(stored.shape)


class EmbeddingTable:
    """LRU cache of embeddings on a device, keyed by sha256. Not thread-safe.

    derive: function of an embedding (tokens, width) whose result, such as keys and values, is cached instead.
    """

    def __init__(
        self,
        device: "torch.device",
        dtype: "torch.dtype",
        *,
        max_bytes: int = RESIDENT_BYTES,
        derive: "Callable[[torch.Tensor], torch.Tensor] | None" = None,
    ) -> None:
        self.device = device
        self.dtype = dtype
        self.max_bytes = max_bytes
        self._derive = derive
        self._rows: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, stored: StoredEmbedding) -> None:
        """Load an embedding onto the device. Raises EmbeddingInvalid."""
        import torch

        if stored.sha256 in self._rows:
            self._rows.move_to_end(stored.sha256)
            return
        row = torch.tensor(unpack(stored)).to(self.device, self.dtype)
        if self._derive:
            row = self._derive(row)
        self._rows[stored.sha256] = row
        self._bytes += row.nbytes
        while self._bytes > self.max_bytes and len(self._rows) > 1:
            _, gone = self._rows.popitem(last=False)
            self._bytes -= gone.nbytes

    def gather(self, batch: Sequence[StoredEmbedding]) -> "torch.Tensor":
        """Return the prompt_embeds of a batch, or the results of `derive`: (batch, tokens, width).

        Raises EmbeddingInvalid.
        """
        import torch

        rows = []
        for stored in batch:
            self.add(stored)
            rows.append(self._rows[stored.sha256])
        return torch.stack(rows)
