"""Pictures of a teacher's VAE for given latents: targets of the decoder and joint stages."""

import hashlib
from collections.abc import Sequence

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from distillation.resumable import atomic
from distillation.trainers.teacher import Teacher
from generation.engine.latents import as_uint8


class VaePictures:
    """Pictures that are decoded when first needed and kept as uint8: 49 kB for one of 128 × 128, 786 kB at 512."""

    def __init__(self, teacher: Teacher, latents: Tensor) -> None:
        """latents: [n, C, h, w], scaled; on any device."""
        self._teacher = teacher
        self._latents = latents
        self._pictures: list[Tensor | None] = [None] * len(latents)

    def of(self, rows: Sequence[int]) -> Tensor:
        """Return the pictures of the rows, fp32 [B, 3, H, W] in [−1, 1], on the teacher's device."""
        for row in rows:
            if self._pictures[row] is None:
                self._decode_around(row)
        pictures = torch.stack([self._pictures[row] for row in rows])  # type: ignore[misc]
        return pictures.to(self._teacher.device).float().div_(127.5).sub_(1)

    def _decode_around(self, row: int) -> None:
        """Decode the fixed part of the latents that contains the row.

        Other parts would be rounded differently; fixed ones give a resumed training, which needs the rows in another
        order, the same pictures.
        """
        size = self._teacher.decoded_at_once
        start = row - row % size
        part = self._latents[start : start + size].float()
        self._pictures[start : start + size] = list(self._drawn(part))

    def _drawn(self, latents: Tensor) -> Tensor:
        """Return the pictures, uint8 [B, 3, H, W], from the cache in `Teacher.drawn` if there is one."""
        folder = self._teacher.drawn
        if folder is None:
            return self._decoded(latents)
        key = hashlib.sha256(latents.contiguous().cpu().numpy().tobytes()).hexdigest()[:24]
        path = folder / f"{key}.safetensors"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            pictures = {"pictures": self._decoded(latents).contiguous()}
            atomic.make_file(path, lambda new: save_file(pictures, new))
        return load_file(path)["pictures"]

    def _decoded(self, latents: Tensor) -> Tensor:
        return as_uint8(self._teacher.decode(latents.to(self._teacher.device))).cpu()
