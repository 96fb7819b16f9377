"""The examiner: a second classifier of pictures, independent of the detector and used only for evaluation.

It has another architecture (ConvNeXt V2, arXiv 2301.00808, from transformers) and its own photographs with their own
seeds. It also predicts which parts of the object are present; to learn this, in a third of its photographs the object
lacks parts, such as a mug without a handle. The training of a teacher or student must not use it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from transformers import ConvNextV2Config, ConvNextV2ForImageClassification

from distillation.detector.network import as_float, resized
from distillation.detector_training.augmentation import Augmentation
from distillation.resumable import atomic
from distillation.starter import scenes
from distillation.starter.rendering import Shot
from distillation.starter.shapes import INCOMPLETE, PARTS, parts_of
from distillation.starter.words import ATTRIBUTES, BITS, COMBINATIONS
from distillation.training import loop, networks
from distillation.training.task import Trained, TrainingRecipe

if TYPE_CHECKING:
    from distillation.starter.photographs import Photographs

BATCH = 64  # pictures per forward pass
FIRST_SEED = 90_000_000  # of its photographs; no other split uses seeds from here on


@dataclass(frozen=True)
class ExaminerRecipe(TrainingRecipe):
    """photographs: number rendered for its training, of all combinations; in a third of them the object lacks parts."""

    photographs: int = 2304
    photograph: scenes.Recipe = field(default_factory=lambda: scenes.Recipe(size=128))
    image_size: int = 128
    patch: int = 4
    widths: tuple[int, ...] = (32, 64, 128, 192)
    depths: tuple[int, ...] = (1, 1, 3, 1)
    steps: int = 1600
    batch: int = 48
    learning_rate: float = 2e-3
    warmup: int = 100
    weight_decay: float = 0.05
    part_weight: float = 4.0  # of the loss of parts, relative to the mean loss of the attributes
    is_bf16: bool = True  # forward and backward passes; weights and updates stay fp32
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 2


@dataclass(frozen=True)
class Prediction:
    """words: index of the most likely word of each attribute, int64 [N, 4]; parts: bool [N, PARTS], present parts."""

    words: Tensor
    parts: Tensor


def shots(count: int) -> list[Shot]:
    """Return a fixed sequence of shots of all combinations. In every third the object lacks parts, if it has any."""
    random = np.random.default_rng(FIRST_SEED)
    order: list[int] = []
    while len(order) < count:
        order.extend(random.permutation(len(COMBINATIONS)).tolist())
    return [
        Shot(
            COMBINATIONS[which],
            FIRST_SEED + number,
            is_incomplete=number % 3 == 0 and COMBINATIONS[which].object in INCOMPLETE,
        )
        for number, which in enumerate(order[:count])
    ]


def build(recipe: ExaminerRecipe) -> ConvNextV2ForImageClassification:
    """Return an untrained examiner. Its logits are [N, BITS + PARTS]."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return ConvNextV2ForImageClassification(
            ConvNextV2Config(
                image_size=recipe.image_size,
                patch_size=recipe.patch,
                num_stages=len(recipe.widths),
                hidden_sizes=list(recipe.widths),
                depths=list(recipe.depths),
                num_labels=len(BITS) + len(PARTS),
                problem_type="multi_label_classification",
            )
        )


class ExaminerTask(Trained):
    """Training task of the examiner, for `distillation.training.loop`."""

    def __init__(
        self, recipe: ExaminerRecipe, *, photographs: "Photographs", shots: Sequence[Shot]
    ) -> None:
        """photographs: of the shots, in their order, with the image size of the examiner."""
        super().__init__()
        self._recipe = recipe
        self._images, self._bits = photographs.images, photographs.bits
        present = [
            parts_of(shot.combination.object, is_incomplete=shot.is_incomplete) for shot in shots
        ]
        self._parts = torch.tensor([[part in parts for part in PARTS] for parts in present]).float()
        # The name of an incomplete object may be wrong, so it is excluded from the loss of the attribute `object`.
        self._is_named = torch.tensor([not shot.is_incomplete for shot in shots])
        self.network = build(recipe)
        self.add_by(recipe, "examiner", self.network, weight_decay=recipe.weight_decay)

    @property
    def averaged(self) -> ConvNextV2ForImageClassification:
        """The examiner with averaged weights, which is saved."""
        return self.emas["examiner"].module

    def step(self, index: int, generator: Generator) -> dict[str, float]:
        recipe = self._recipe
        loop.anneal(self.optimizers["examiner"], index, recipe)
        rows = torch.randint(len(self._images), (recipe.batch,), generator=generator)
        images = recipe.augmentation(as_float(self._images[rows]), generator)
        with networks.autocast(is_bf16=recipe.is_bf16):
            logits = self.network(images).logits.float()
        words, parts = logits.split([len(BITS), len(PARTS)], dim=1)
        word_loss = attribute_loss(words, self._bits[rows], self._is_named[rows])
        part_loss = F.binary_cross_entropy_with_logits(parts, self._parts[rows])
        loss = word_loss + recipe.part_weight * part_loss
        norm = self.update("examiner", loss, clipped_norm=recipe.clipped_norm)
        return {
            "loss": loss.item(),
            "words": word_loss.item(),
            "parts": part_loss.item(),
            "gradient_norm": norm,
        }


def attribute_loss(logits: Tensor, bits: Tensor, is_named: Tensor) -> Tensor:
    """Return the cross-entropy over the words of each attribute, averaged over attributes.

    logits, bits: [N, BITS]; is_named: bool [N], the images that count in the loss of the attribute `object`.
    """
    sizes = [len(words) for words in ATTRIBUTES.values()]
    groups = zip(ATTRIBUTES, logits.split(sizes, dim=1), bits.split(sizes, dim=1), strict=True)
    losses = []
    for attribute, group, target in groups:
        each = F.cross_entropy(group, target, reduction="none")
        weights = is_named.float() if attribute == "object" else torch.ones_like(each)
        losses.append((each * weights).sum() / weights.sum().clamp(min=1))
    return torch.stack(losses).mean()


def train(
    recipe: ExaminerRecipe, *, photographs: "Photographs", folder: Path, progress_bar: bool
) -> ConvNextV2ForImageClassification:
    """Train, resuming from the folder's checkpoint; save the examiner in folder/examiner and return it, fp32.

    photographs: of `shots(recipe.photographs)`.
    """
    task = ExaminerTask(
        recipe,
        photographs=photographs.scaled(recipe.image_size),
        shots=shots(recipe.photographs),
    )
    loop.train(task, recipe, folder=folder, title="examiner", progress_bar=progress_bar)
    save(task.averaged, Path(folder) / "examiner")
    return load(Path(folder) / "examiner")


def save(network: ConvNextV2ForImageClassification, folder: Path) -> None:
    """Write config and weights into the folder; an existing folder is replaced atomically."""
    atomic.make_folder(folder, network.save_pretrained)


def load(folder: Path) -> ConvNextV2ForImageClassification:
    """Load the examiner in evaluation mode, frozen, in fp32."""
    network = ConvNextV2ForImageClassification.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
    )
    return network.requires_grad_(False).eval()


@torch.inference_mode()
def predict(network: ConvNextV2ForImageClassification, images: Tensor) -> Prediction:
    """Return the predicted words and parts. images: uint8 [N, 3, height, width]."""
    logits = torch.cat(
        [
            network(as_float(resized(part, network.config.image_size))).logits.float()
            for part in images.split(BATCH)
        ]
    )
    words, parts = logits.split([len(BITS), len(PARTS)], dim=1)
    groups = words.split([len(group) for group in ATTRIBUTES.values()], dim=1)
    return Prediction(torch.stack([group.argmax(1) for group in groups], dim=1), parts > 0)
