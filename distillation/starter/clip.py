"""A small CLIP: training on photographs and captions, and zero-shot classification.

The text tower conditions the teacher; the image tower provides features for evaluation. Losses: the contrastive loss
of Radford et al. 2021 (arXiv 2103.00020), where all captions of one combination are positives, and a cross-entropy per
attribute against phrases of one word.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from distillation.detector.network import as_float
from distillation.detector_training.augmentation import Augmentation
from distillation.resumable import atomic
from distillation.starter.captions import captions, phrases
from distillation.starter.tokenizer import MODEL_MAX_LENGTH
from distillation.starter.words import ATTRIBUTES, COMBINATIONS, NUMBERS, Combination
from distillation.training import loop, networks
from distillation.training.optimizers import update
from distillation.training.task import Trained

if TYPE_CHECKING:
    from distillation.evaluation.clip import Clip
    from distillation.starter.photographs import Photographs

MAX_LOGIT_SCALE = 100.0  # as in the paper


@dataclass(frozen=True)
class ClipRecipe:
    """Sizes and training of the two towers. Widths are of the residual stream."""

    image_size: int = 128
    patch: int = 16
    image_width: int = 192
    image_layers: int = 6
    image_heads: int = 6
    image_hidden: int = 768
    text_width: int = 160  # of the teacher's cross-attention
    text_layers: int = 4
    text_heads: int = 4
    text_hidden: int = 640
    projection: int = 128
    steps: int = 1100
    batch: int = 64
    learning_rate: float = 1e-3  # peak
    warmup: int = 100
    weight_decay: float = 0.05
    clipped_norm: float = 1.0
    attribute_weight: float = 2.0  # of the loss per attribute, relative to the one per combination
    is_bf16: bool = True  # forward passes; weights and updates stay fp32
    augmentation: Augmentation = field(
        default_factory=lambda: Augmentation(noise=0.03, blurred=0.2, blocked=0.1)
    )
    seed: int = 0


def build(recipe: ClipRecipe, tokenizer: CLIPTokenizer) -> CLIPModel:
    """Return an untrained CLIP with the ids of the tokenizer's special tokens."""
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        # The text tower pools at the first token with this id; padding has the same id, as in Stable Diffusion.
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = CLIPConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": recipe.text_width,
            "intermediate_size": recipe.text_hidden,
            "num_hidden_layers": recipe.text_layers,
            "num_attention_heads": recipe.text_heads,
            "max_position_embeddings": MODEL_MAX_LENGTH,
            "projection_dim": recipe.projection,
            **ids,
        },
        vision_config={
            "hidden_size": recipe.image_width,
            "intermediate_size": recipe.image_hidden,
            "num_hidden_layers": recipe.image_layers,
            "num_attention_heads": recipe.image_heads,
            "image_size": recipe.image_size,
            "patch_size": recipe.patch,
            "hidden_act": "gelu",  # one fused kernel; CLIP's quick_gelu is three
            "projection_dim": recipe.projection,
        },
        projection_dim=recipe.projection,
    )
    # With 65 tokens on a CPU, the backward pass of the fused attention is several times slower.
    return CLIPModel._from_config(config, attn_implementation="eager")


class ClipTask(Trained):
    """Training task of the CLIP, for `distillation.training.loop`."""

    def __init__(
        self,
        recipe: ClipRecipe,
        tokenizer: CLIPTokenizer,
        *,
        images: Tensor,
        combinations: Sequence[Combination],
    ) -> None:
        """images: uint8 [N, 3, size, size]; combinations: one for each image."""
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.clip = build(recipe, tokenizer)
        self._recipe = recipe
        self._images = images
        self._numbers = torch.tensor([NUMBERS[combination] for combination in combinations])
        self._bits = torch.tensor([combination.bits for combination in combinations])
        self._caption_ids = _table(tokenizer, [captions(c) for c in COMBINATIONS])
        self._phrase_ids = _table(
            tokenizer, [phrases(name, word) for name, words in ATTRIBUTES.items() for word in words]
        )
        # The learning rate decays to zero, so averaged weights would not be better.
        self.add(
            "clip",
            self.clip,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            betas=(0.9, 0.98),
        )

    def step(self, index: int, generator: Generator) -> dict[str, float]:
        recipe = self._recipe
        loop.anneal(self.optimizers["clip"], index, recipe)
        chosen = torch.randint(len(self._images), (recipe.batch,), generator=generator)
        images = recipe.augmentation(as_float(self._images[chosen]), generator)
        numbers = self._numbers[chosen]
        texts = torch.cat(
            [
                _draw(self._caption_ids[numbers], generator),
                _draw(self._phrase_ids, generator),
            ]
        )
        self.clip.train()
        with networks.autocast(is_bf16=recipe.is_bf16):
            image_features = self.clip.get_image_features(pixel_values=images).pooler_output
            text_features = self.clip.get_text_features(input_ids=texts).pooler_output
        image_features = F.normalize(image_features.float(), dim=-1)
        text_features = F.normalize(text_features.float(), dim=-1)
        logits = self.clip.logit_scale.exp() * image_features @ text_features.T
        of_captions, of_phrases = logits.split([recipe.batch, len(self._phrase_ids)], dim=1)
        contrastive = contrastive_loss(of_captions, numbers[:, None] == numbers[None, :])
        attributes = attribute_loss(of_phrases, self._bits[chosen])
        loss = contrastive + recipe.attribute_weight * attributes

        update(self.optimizers["clip"], loss, clipped_norm=recipe.clipped_norm)
        with torch.no_grad():
            self.clip.logit_scale.clamp_(max=math.log(MAX_LOGIT_SCALE))
        return {
            "loss": loss.item(),
            "contrastive": contrastive.item(),
            "attributes": attributes.item(),
        }


def contrastive_loss(logits: Tensor, positive: Tensor) -> Tensor:
    """Return the symmetric cross-entropy with uniform targets over the positives. logits, positive: [images, texts]."""
    target = positive.float()
    by_image = F.cross_entropy(logits, target / target.sum(dim=1, keepdim=True))
    by_text = F.cross_entropy(logits.T, (target / target.sum(dim=0, keepdim=True)).T)
    return (by_image + by_text) / 2


def attribute_loss(logits: Tensor, bits: Tensor) -> Tensor:
    """Return the cross-entropy over the words of each attribute, averaged over attributes. logits, bits: [N, 23]."""
    sizes = [len(words) for words in ATTRIBUTES.values()]
    groups = zip(logits.split(sizes, dim=1), bits.float().split(sizes, dim=1), strict=True)
    return torch.stack([F.cross_entropy(group, target) for group, target in groups]).mean()


def train(
    recipe: ClipRecipe,
    *,
    photographs: "Photographs",
    tokenizer_folder: Path,
    folder: Path,
    progress_bar: bool,
) -> CLIPModel:
    """Train, resuming from the folder's checkpoint; save the model and its image processor in folder/clip."""
    task = ClipTask(
        recipe,
        CLIPTokenizer.from_pretrained(tokenizer_folder),
        images=photographs.images,
        combinations=photographs.combinations,
    )
    loop.train(task, recipe, folder=folder, title="clip", progress_bar=progress_bar)
    save(task.clip, Path(folder) / "clip")
    return load(Path(folder) / "clip")


def save(clip: CLIPModel, folder: Path) -> None:
    """Replace the folder atomically: config, weights, image processor."""
    from transformers import CLIPImageProcessor  # its import warns where torchvision is missing

    size = clip.config.vision_config.image_size
    processor = CLIPImageProcessor(
        size={"height": size, "width": size},
        resample=Image.Resampling.BILINEAR,
        do_center_crop=False,
        image_mean=[0.5] * 3,  # as `as_float`
        image_std=[0.5] * 3,
    )

    def make(new: Path) -> None:
        clip.save_pretrained(new)
        processor.save_pretrained(new)

    atomic.make_folder(folder, make)


def load(folder: Path) -> CLIPModel:
    """Load the CLIP in evaluation mode, frozen, in fp32."""
    clip = CLIPModel.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
    )
    return clip.requires_grad_(False).eval()


# --- inference ------------------------------------------------------------------------------------
def tokenise(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """Return token ids, int64 [N, 16], padded with the end-of-text token. Raises ValueError for too long a text."""
    rows = tokenizer(list(texts), padding="max_length", max_length=MODEL_MAX_LENGTH)["input_ids"]
    for text, row in zip(texts, rows, strict=True):
        if len(row) > MODEL_MAX_LENGTH:
            raise ValueError(f"{text!r:.100} has {len(row)} tokens, more than {MODEL_MAX_LENGTH}.")
    return torch.tensor(rows, dtype=torch.int64)


def zero_shot(clip: "Clip", images: Tensor) -> dict[str, Tensor]:
    """Return for each attribute the index of the most likely word, int64 [N]. images: uint8 [N, 3, H, W].

    A word is represented by the mean of the features of its phrases.
    """
    features = clip.image_features(images)
    found = {}
    for attribute, words in ATTRIBUTES.items():
        directions = torch.stack(
            [clip.text_features(phrases(attribute, word)).mean(dim=0) for word in words]
        )
        found[attribute] = (features @ F.normalize(directions, dim=-1).T).argmax(dim=1)
    return found


def _table(tokenizer: CLIPTokenizer, rows: Sequence[Sequence[str]]) -> Tensor:
    """Return token ids, int64 [rows, phrasings, 16]."""
    return torch.stack([tokenise(tokenizer, row) for row in rows])


def _draw(ids: Tensor, generator: Generator) -> Tensor:
    """Return a random phrasing of each row, int64 [rows, 16]. ids: [rows, phrasings, 16]."""
    rows, count, _ = ids.shape
    return ids[torch.arange(rows), torch.randint(count, (rows,), generator=generator)]
