from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize
from transformers import CLIPTokenizer

from distillation.detector.network import as_float
from distillation.evaluation import clip as clips
from distillation.starter import clip as starter
from tests.distillation.starter import toys

TEXTS = ["a red clay vase on a wooden table", "a blue metal mug on a linen cloth"]


@pytest.fixture(scope="module")
def judge() -> clips.Clip:
    return clips.load(toys.clip_folder(), tokenizer=toys.tokenizer_folder())


def test_features_are_those_that_the_clip_was_trained_with(judge: clips.Clip):
    images = toys.photographs(3).images
    trained = starter.load(toys.clip_folder())
    expected = trained.get_image_features(pixel_values=as_float(images)).pooler_output
    found = judge.image_features(images)
    assert torch.allclose(found, normalize(expected), atol=1e-5)
    words = CLIPTokenizer.from_pretrained(toys.tokenizer_folder())
    expected = trained.get_text_features(input_ids=starter.tokenise(words, TEXTS)).pooler_output
    assert torch.allclose(judge.text_features(TEXTS), normalize(expected), atol=1e-5)


def test_pictures_of_another_size_are_scaled(judge: clips.Clip):
    image = toys.photographs(1).images
    large = image.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(judge.image_features(large), judge.image_features(image), atol=0.05)


def test_maps_have_a_vector_per_patch_and_depend_on_the_place(judge: clips.Clip):
    image = toys.photographs(1).images
    [maps] = judge.maps(torch.cat([image, image.flip(3)]))  # one layer
    assert maps.shape == (2, 16, 4)
    assert not torch.allclose(maps[0], maps[1], atol=1e-3)


def test_a_text_that_does_not_fit_is_refused(judge: clips.Clip):
    with pytest.raises(ValueError, match="takes texts of 16 tokens"):
        judge.text_features(["a red clay vase on a wooden table " * 3])


def test_a_clip_needs_a_tokenizer_that_belongs_to_it(tmp_path: Path):
    with pytest.raises(ValueError, match="no tokenizer"):
        clips.load(toys.clip_folder())
    with pytest.raises(OSError, match="nothing"):
        clips.load(tmp_path / "nothing")
