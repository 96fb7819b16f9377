"""Runtimes, which compute the U-Net and the decoder of a release. `selection` chooses one.

NAMES are the values of the setting RUNTIME. Each runtime gives the same pixels within `pipeline.TOLERANCE`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor
    from torch import dtype as DType

KeyValues = Callable[["Tensor"], "Tensor"]
NAMES = ("auto", "torch", "openvino")


class Runtime(Protocol):
    """The networks of one release on one device. Not thread-safe.

    Raises OutOfMemory or torch's own exceptions if the device has too little memory for a batch.
    """

    @property
    def name(self) -> str: ...

    @property
    def latent_channels(self) -> int: ...

    @property
    def pixels_per_latent(self) -> int: ...

    @property
    def dtype(self) -> "DType":
        """Dtype of `prompts`."""

    @property
    def keyvalues(self) -> KeyValues | None:
        """Function from an embedding [tokens, width] to its row of `prompts`; None: the embedding itself."""

    def denoise(self, latents: "Tensor", step: int, prompts: "Tensor") -> "Tensor":
        """Return the U-Net's output, fp32 [batch, channels, height, width], at a step of the release, from 0."""

    def decode(self, latents: "Tensor") -> "Tensor":
        """Return images, fp32 [batch, 3, height, width] in [−1, 1], of latents scaled as the U-Net's."""
