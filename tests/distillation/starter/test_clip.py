from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import CLIPImageProcessor, CLIPModel, CLIPTextModel, CLIPTokenizer

from distillation.detector.network import as_float
from distillation.detector_training.augmentation import Augmentation
from distillation.evaluation import clip as judging
from distillation.starter import clip as module
from distillation.starter import tokenizer as vocabulary
from distillation.starter.captions import captions, phrases
from distillation.starter.clip import ClipRecipe, ClipTask
from distillation.starter.words import ATTRIBUTES, COLOURS, COMBINATIONS, Combination

TOY = ClipRecipe(
    image_size=32,
    patch=8,
    image_width=32,
    image_layers=1,
    image_heads=2,
    image_hidden=64,
    text_width=32,
    text_layers=1,
    text_heads=2,
    text_hidden=64,
    projection=16,
    steps=40,
    batch=16,
    warmup=4,
    learning_rate=5e-3,
    augmentation=Augmentation(moved=0, blocked=0, blurred=0),
)
GREY = np.full((32, 32, 3), 100, np.uint8)
RGB = {
    "red": (220, 30, 30),
    "orange": (240, 140, 20),
    "yellow": (240, 230, 40),
    "green": (30, 180, 40),
    "blue": (30, 60, 220),
    "purple": (150, 40, 190),
    "white": (240, 240, 240),
    "black": (20, 20, 20),
}


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    texts = [text for combination in COMBINATIONS for text in captions(combination)]
    texts += [text for a, words in ATTRIBUTES.items() for w in words for text in phrases(a, w)]
    vocabulary.train(folder, texts)
    return folder


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(tokenizer_folder)


def make_photographs(count: int = 64) -> SimpleNamespace:
    """Return images of a single colour, as a stand-in for `photographs.Photographs`."""
    combinations = tuple(
        Combination("vase", COLOURS[index % 8], "clay", "table") for index in range(count)
    )
    images = torch.tensor([RGB[c.colour] for c in combinations], dtype=torch.uint8)
    return SimpleNamespace(
        images=images.view(count, 3, 1, 1).repeat(1, 1, 32, 32), combinations=combinations
    )


@pytest.fixture(scope="module")
def trained(tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    module.train(
        TOY,
        photographs=make_photographs(),
        tokenizer_folder=tokenizer_folder,
        folder=folder,
        progress_bar=False,
    )
    return folder / "clip"


@pytest.mark.slow
def test_training_learns_the_visible_attribute(trained: Path, tokenizer_folder: Path) -> None:
    clip = judging.load(trained, tokenizer=tokenizer_folder)
    found = module.zero_shot(clip, make_photographs(16).images)
    assert set(found) == set(ATTRIBUTES)
    expected = torch.arange(16) % 8
    assert (found["colour"] == expected).float().mean() >= 0.8


def test_the_caption_of_a_photograph_is_nearest_to_it(
    trained: Path, tokenizer_folder: Path
) -> None:
    clip, photographs = judging.load(trained, tokenizer=tokenizer_folder), make_photographs(8)
    texts = [captions(c)[0] for c in photographs.combinations]
    images = clip.image_features(photographs.images)
    nearest = (images @ clip.text_features(texts).T).argmax(dim=1)
    assert (nearest == torch.arange(8)).float().mean() >= 0.75


def test_the_saved_folder_is_a_stock_clip(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    assert isinstance(CLIPModel.from_pretrained(trained), CLIPModel)
    pixels = CLIPImageProcessor.from_pretrained(trained)(images=[GREY], return_tensors="pt")
    assert torch.allclose(pixels["pixel_values"], as_float(torch.from_numpy(GREY).permute(2, 0, 1)))


def test_the_text_tower_pools_at_the_end_token(trained: Path, tokenizer: CLIPTokenizer) -> None:
    text_encoder = CLIPTextModel(module.load(trained).text_model.config).eval()
    text_encoder.load_state_dict(module.load(trained).text_model.state_dict())
    assert text_encoder.config.eos_token_id == tokenizer.eos_token_id
    assert text_encoder.config.max_position_embeddings == 16
    ids = module.tokenise(tokenizer, ["a red clay vase"])
    output = text_encoder(input_ids=ids)
    assert output.pooler_output.equal(output.last_hidden_state[:, 5])  # start, four words, end


def test_texts_are_padded_with_the_end_token_and_refused_if_too_long(
    tokenizer: CLIPTokenizer,
) -> None:
    ids = module.tokenise(tokenizer, ["", "a red vase"])
    assert ids.shape == (2, 16)
    assert ids[0, 1:].unique().tolist() == [tokenizer.eos_token_id]
    with pytest.raises(ValueError, match="more than 16"):
        module.tokenise(tokenizer, ["a " * 15])


def test_captions_of_one_combination_are_all_positives() -> None:
    positive = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]]).bool()
    right = torch.where(positive, 10.0, -10.0)
    assert module.contrastive_loss(right, positive) == pytest.approx(
        2 / 3 * torch.tensor(2.0).log().item(), abs=1e-3
    )  # the remaining loss is the entropy of two equal positives
    assert module.contrastive_loss(-right, positive) > 5


def test_the_attribute_loss_compares_words_within_an_attribute_only() -> None:
    bits = torch.tensor([Combination("mug", "red", "metal", "slab").bits])
    logits = torch.where(bits, 10.0, -10.0)
    assert module.attribute_loss(logits, bits) < 1e-3
    shifted = logits.clone()
    shifted[:, :8] += 100  # all objects: does not change the softmax of any attribute
    assert module.attribute_loss(shifted, bits) < 1e-3
    assert module.attribute_loss(-logits, bits) > 10


def test_a_step_depends_only_on_its_index_and_generator(tokenizer: CLIPTokenizer) -> None:
    photographs, weights = make_photographs(16), []
    for _ in range(2):
        task = ClipTask(
            TOY, tokenizer, images=photographs.images, combinations=photographs.combinations
        )
        task.step(0, torch.Generator().manual_seed(0))
        weights.append(torch.cat([p.detach().flatten() for p in task.clip.parameters()]))
    assert weights[0].equal(weights[1])
