"""Sample sheets, which show the progress of a training: the student's pictures below the teacher's.

Prompts and noise are held out, and the same in all stages of a run, so that their sheets can be compared.
"""

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from distillation.evaluation.report import sheets
from distillation.evaluation.report.sheets import Row
from distillation.resumable import atomic
from distillation.trainers.catalogue import Catalogue
from distillation.trainers.pairs import Pairs
from distillation.trainers.rollout import Rollout
from distillation.trainers.teacher import Teacher
from distillation.training.task import Progress
from generation.engine.latents import as_images, as_uint8

SHEET, FACTS = "samples.webp", "samples.json"
COLUMNS = 4  # pictures in a row: more would be too small on a phone
TEXT_PIXELS, PIXELS_A_LETTER = 11, 6


class Samples:
    """noise, latents [B, C, h, w]: of one pair of each prompt; embeds [B, tokens, width]; on the teacher's device."""

    def __init__(
        self,
        teacher: Teacher,
        *,
        pairs: Pairs,
        catalogue: Catalogue,
        order: Sequence[int] | None = None,
    ) -> None:
        """pairs: held out, of the prompts that are shown; order: these prompts, None = ascending.

        The teacher's pictures are drawn here, once.
        """
        pairs = pairs.take(_first_of_each(pairs, order))
        self._teacher = teacher
        self._texts = [catalogue.texts[row] for row in pairs.prompts.tolist()]
        self.noise = pairs.noise(torch.arange(len(pairs))).to(teacher.device)
        self.embeds = catalogue.embeds(pairs.prompts).to(teacher.device)
        self.latents = pairs.latents.float().to(teacher.device)
        self._of_teacher = _shown(teacher.decode(self.latents))

    def walked(self, student: UNet2DConditionModel, timesteps: Sequence[int]) -> Tensor:
        """Return clean latents of the student, [B, C, h, w]."""
        return Rollout(self._teacher, tuple(timesteps)).walk(student, self.noise, self.embeds)

    @torch.no_grad()
    def drawn(self, decoder: nn.Module, latents: Tensor) -> Tensor:
        """Decode with the decoder of an AutoencoderTiny: fp32 [B, 3, H, W] in [−1, 1]."""
        with self._teacher.autocast():
            pictures = as_images(decoder(latents))
        return pictures.float()

    def write(self, folder: Path, pictures: Tensor, progress: Progress) -> None:
        """Write samples.webp, and samples.json with step and texts. pictures: the student's [B, 3, H, W] in [−1, 1]."""
        ours = _shown(pictures)
        letters = ours.shape[3] // PIXELS_A_LETTER
        captions = [textwrap.fill(text, letters) for text in self._texts]
        rows = []
        for start in range(0, len(ours), COLUMNS):
            part = slice(start, start + COLUMNS)
            rows.append(Row("teacher", self._of_teacher[part]))
            rows.append(Row("student", ours[part], tuple(captions[part])))
        atomic.make_file(
            folder / SHEET, lambda path: sheets.write(path, rows, text_size=TEXT_PIXELS)
        )
        facts = {"step": progress.step, "steps": progress.steps, "texts": self._texts}
        atomic.write_file(folder / FACTS, json.dumps(facts, ensure_ascii=False) + "\n")


def _first_of_each(pairs: Pairs, order: Sequence[int] | None) -> Tensor:
    """Return a row of each prompt, int64: the first that the detector accepted, else the first."""
    found: dict[int, int] = {}
    for only_accepted in (True, False):
        for row, prompt in enumerate(pairs.prompts.tolist()):
            if prompt not in found and (pairs.accepted[row] or not only_accepted):
                found[prompt] = row
    prompts = sorted(found) if order is None else [row for row in order if row in found]
    return torch.tensor([found[prompt] for prompt in prompts])


def _shown(pictures: Tensor) -> Tensor:
    return sheets.small(as_uint8(pictures).cpu())
