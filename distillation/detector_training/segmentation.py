"""Training of the segmentation network on photographs with masks, and calibration of its bits."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Generator, Tensor

from distillation.detector import calibration
from distillation.detector.network import as_float
from distillation.detector.segmentation import BITS, SegmentationConfig, UNet, bit_logits, rim
from distillation.detector_training.augmentation import Augmentation
from distillation.detector_training.classifier import TrainingRecipe
from distillation.detector_training.framing import Framing
from distillation.losses.segmentation import class_balance, pixel_cross_entropy, weight_map
from distillation.training import loop, networks
from distillation.training.optimizers import adamw
from distillation.training.task import Trained
from generation.engine.latents import as_uint8

SURE = 20.0  # logit assigned to the pixels of a true mask
FRAMINGS = 4  # random framings of each photograph for the calibration
GAP = (
    0.8  # whether an object between this multiple of `smallest` and `smallest` is large is unknown
)


@dataclass(frozen=True)
class SegmentationRecipe(TrainingRecipe):
    """border_weight, sigma (pixels of the mask): U-Net's w₀ and σ.

    smallest: least area of an object, as a share of that of the smallest one in the training set.
    augmentation: applied after the framing; it must not move the images, because the masks would not follow.
    """

    steps: int = 1500
    batch: int = 32
    warmup: int = 30
    weight_decay: float = 0.01
    border_weight: float = 10.0
    sigma: float = 2.5
    smallest: float = 0.75
    is_bf16: bool = False  # slower for networks as narrow as this
    framing: Framing = field(default_factory=Framing)
    augmentation: Augmentation = field(
        default_factory=lambda: Augmentation(is_mirrored=False, moved=0.0)
    )


class SegmentationTask(Trained):
    """Training of the segmentation network, for `distillation.training.loop`."""

    def __init__(
        self,
        recipe: SegmentationRecipe,
        config: SegmentationConfig,
        *,
        images: Tensor,
        masks: Tensor,
    ) -> None:
        """images: uint8 [N, 3, size, size]; masks: uint8 [N, size, size], 0 = background, objects numbered from 1."""
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.unet = UNet(config)
        self._recipe = recipe
        self._images = images
        objects = reduced(masks, config)
        classes = (objects > 0).long()
        weights = weight_map(
            classes,
            objects.long(),
            class_weights=class_balance(classes),
            border_weight=recipe.border_weight,
            sigma=recipe.sigma,
        )
        self._maps = torch.stack([classes.float(), weights], dim=1)
        self.modules["segmentation"] = self.unet
        self._optimizer = self.optimizers["segmentation"] = adamw(
            self.unet, learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay
        )

    def step(self, index: int, generator: Generator) -> dict[str, float]:
        recipe = self._recipe
        loop.anneal(self._optimizer, index, recipe)
        chosen = torch.randint(len(self._images), (recipe.batch,), generator=generator)
        images, maps = recipe.framing(as_float(self._images[chosen]), self._maps[chosen], generator)
        images = recipe.augmentation(images, generator)
        classes, weights = maps[:, 0].long(), maps[:, 1]
        self.unet.train()
        with networks.autocast(is_bf16=recipe.is_bf16):
            logits = self.unet(images).float()
        loss = pixel_cross_entropy(logits, classes, weights=weights)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        return {"loss": loss.item(), "overlap": overlap(logits.argmax(1), classes)}


def train(
    recipe: SegmentationRecipe,
    *,
    images: Tensor,
    masks: Tensor,
    validation_images: Tensor,
    validation_masks: Tensor,
    config: SegmentationConfig,
    false_accepts: float,
    folder: Path,
    progress_bar: bool,
) -> UNet:
    """Train (resuming from the folder's checkpoint), calibrate, and return the network. Shapes as in SegmentationTask.

    config.smallest is fitted to the training set. false_accepts: share of the pictures without a bit that may be
    accepted.
    """
    config = fitted(config, masks, share=recipe.smallest)
    task = SegmentationTask(recipe, config, images=images, masks=masks)
    loop.train(task, recipe, folder=folder, title="segmentation", progress_bar=progress_bar)
    calibrate(
        task.unet,
        images=validation_images,
        masks=validation_masks,
        framing=recipe.framing,
        false_accepts=false_accepts,
        seed=recipe.seed,
    )
    return task.unet.requires_grad_(False).eval()


def fitted(config: SegmentationConfig, masks: Tensor, *, share: float) -> SegmentationConfig:
    """Return the config with `smallest` as a share of the training set's smallest object, outliers (1 %) left out."""
    areas = (masks > 0).flatten(1).float().mean(1)
    return replace(config, smallest=min(0.99, max(1e-3, share * float(areas.quantile(0.01)))))


def calibrate(
    unet: UNet,
    *,
    images: Tensor,
    masks: Tensor,
    framing: Framing,
    false_accepts: float,
    seed: int,
) -> None:
    """Set temperatures, then thresholds, from held-out photographs, unchanged and in random framings."""
    generator = torch.Generator().manual_seed(seed)
    maps = (reduced(masks, unet.config) > 0).float()[:, None]
    logits, truths = [], []
    for number in range(1 + FRAMINGS):
        framed, seen = as_float(images), maps
        if number:
            framed, seen = framing(framed, maps, generator)
        logits.append(unet.bit_logits(as_uint8(framed)))
        truths.append(true_bits(seen[:, 0] > 0.5, unet.config))
    found = torch.cat(logits)
    true, known = (torch.cat(part) for part in zip(*truths, strict=True))
    calibration.calibrate(unet, found, true, known=known, names=BITS, false_accepts=false_accepts)


def true_bits(masks: Tensor, config: SegmentationConfig) -> tuple[Tensor, Tensor]:
    """Return (BITS of the true masks, whether they are certain), bool [N, 2] each. masks: bool [N, H, W]."""
    found = bit_logits((masks.float() * 2 - 1) * SURE, config) > 0
    on_rim = masks[:, rim(config)].sum(1)
    share = masks.float().mean(dim=(1, 2))
    is_known = torch.stack(
        [
            (on_rim == 0) | (on_rim > 2 * config.tolerance),
            (share >= config.smallest) | (share < GAP * config.smallest),
        ],
        dim=1,
    )
    return found, is_known


def reduced(masks: Tensor, config: SegmentationConfig) -> Tensor:
    """Return every `reduction`-th pixel of the masks: uint8 [N, mask_size, mask_size]."""
    start = config.reduction // 2
    return masks[:, start :: config.reduction, start :: config.reduction]


def overlap(found: Tensor, classes: Tensor) -> float:
    """Return the intersection over union of the object, over all pixels. int [N, H, W] each."""
    both, either = (found & classes).sum(), (found | classes).sum()
    return float(both / either.clamp(min=1))
