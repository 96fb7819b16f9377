"""Runtime of torch: supports every release and device; compiled for students on CUDA devices."""

from collections.abc import Sequence
from pathlib import Path

import structlog
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from generation.engine import latents as conversions
from generation.engine import networks
from generation.engine.device import Device
from generation.engine.errors import ReleaseInvalid
from generation.engine.release import Manifest
from generation.engine.runtimes import KeyValues
from generation.engine.runtimes.graphs import Graphs
from generation.engine.student import FoldedUNet

log = structlog.get_logger(__name__)


def load(
    folder: Path, manifest: Manifest, device: Device, *, compiled: bool = False
) -> "TorchRuntime":
    """Load a release's networks. compiled: with CUDA graphs if possible, for a student on a CUDA device.

    Raises ReleaseInvalid, OSError, ValueError, KeyError, RuntimeError and SafetensorError.
    """
    unet = networks.load_unet(folder / "unet", device)
    vae = networks.load_vae(folder / "vae", device)
    runtime = TorchRuntime(unet, vae, manifest.timesteps, device)
    if isinstance(unet, FoldedUNet):
        if unet.steps != len(manifest.timesteps):
            raise ReleaseInvalid(
                f"The network of {folder} is folded for {unet.steps} steps, but its manifest has "
                f"{len(manifest.timesteps)}."
            )
        if compiled:
            runtime.use_graphs(Graphs(unet, vae), manifest)
    return runtime


class TorchRuntime:
    def __init__(
        self,
        unet: UNet2DConditionModel | FoldedUNet,
        vae: AutoencoderKL | AutoencoderTiny,
        timesteps: Sequence[int],
        device: Device,
    ) -> None:
        self.unet = unet
        self.vae = vae
        self.latent_channels: int = unet.config.in_channels
        self.pixels_per_latent = conversions.pixels_per_latent(vae.config)
        self.dtype = device.dtype
        self.keyvalues: KeyValues | None = unet.keyvalues if isinstance(unet, FoldedUNet) else None
        self._timesteps = [float(timestep) for timestep in timesteps]
        self._is_mps = device.place.type == "mps"
        self._graphs: Graphs | None = None

    @property
    def name(self) -> str:
        return "torch" if self._graphs is None else "torch compiled"

    def use_graphs(self, graphs: Graphs, manifest: Manifest) -> None:
        """Warm up the graphs for the first image size of the release, and use them from now on.

        If the networks cannot be compiled or recorded, they are used as they are. Raises AcceleratorError if the
        device has failed.
        """
        width, height = manifest.image_sizes[0]
        size = (height // self.pixels_per_latent, width // self.pixels_per_latent)
        tokens = manifest.embedding_shape[0]
        try:
            graphs.warm_up(size, tokens=tokens)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a missing compiler, a folder without programs: anything
            if isinstance(error, torch.AcceleratorError):  # of the recording, or of the device
                self._require_device(graphs, size, tokens=tokens)
            reason = str(error).strip() or repr(error)
            log.warning("student_not_compiled", release=manifest.name, error=reason[:1000])
        else:
            self._graphs = graphs

    @torch.inference_mode()
    def _require_device(self, graphs: Graphs, size: tuple[int, int], *, tokens: int) -> None:
        """Raise AcceleratorError if the device cannot compute a picture with the networks as they are."""
        latents, prompts = graphs.zeros(1, size, tokens=tokens)
        self.decode(self.denoise(latents, 0, prompts)).cpu()

    def denoise(self, latents: Tensor, step: int, prompts: Tensor) -> Tensor:
        if self._graphs is not None:
            return self._graphs.denoise(latents, step, prompts)
        latents = latents.to(self.dtype)
        if not self._is_mps:
            latents = latents.contiguous(memory_format=torch.channels_last)
        if isinstance(self.unet, FoldedUNet):
            return self.unet(latents, step, prompts).float()
        output = self.unet(
            latents, self._timesteps[step], encoder_hidden_states=prompts, return_dict=False
        )
        return output[0].float()

    def decode(self, latents: Tensor) -> Tensor:
        if self._graphs is not None:
            return self._graphs.decode(latents)
        return conversions.latents_to_image(self.vae, latents)
