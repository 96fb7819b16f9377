"""Real images as latents of their prompts, and the heads that learn from them."""

import json
from dataclasses import replace

import pytest
import torch

from distillation.resumable import progress
from distillation.trainers import real_images
from distillation.trainers.catalogue import EXAMPLES, PICTURES
from distillation.trainers.dmd2.discriminator import AdversarialRecipe
from distillation.trainers.real_images import RealImages
from generation.engine.latents import image_to_latents, latents_to_image
from tests.distillation.pictures import picture, png
from tests.distillation.trainers import few_step_toys as toys
from tests.distillation.trainers.dmd2.test_trainer import ADVERSARIAL, RECIPE, same, steps, task_of


@pytest.fixture
def folder(tmp_path):
    """A snapshot's, with a picture of the first variant and one of the first and the third."""
    (tmp_path / PICTURES).mkdir()
    for name, seed in (("one.png", 1), ("both.png", 2)):
        (tmp_path / PICTURES / name).write_bytes(png(seed, width=64, height=64))
    rows = [("variant-0", "one"), ("variant-0", "both"), ("variant-2", "both")]
    examples = [
        {"slug": slug, "sha256": name, "file": f"images/ab/{name}.png"} for slug, name in rows
    ]
    (tmp_path / EXAMPLES).write_text(json.dumps(examples))
    return tmp_path


def test_pictures_are_encoded_as_the_teachers_vae_does(folder):
    teacher = toys.teacher()
    found = real_images.read_latents(folder, teacher=teacher, catalogue=toys.catalogue())
    assert found.prompts.tolist() == [0, 0, 2] and found.which.tolist() == [1, 0, 0]
    latents = found.samples[found.which]
    assert latents.shape[1:] == teacher.latent_shape and latents.dtype == torch.float16
    pixels = torch.tensor(list(picture(1, width=64, height=64).tobytes())).view(1, 64, 64, 3)
    wanted = image_to_latents(teacher.vae, pixels.permute(0, 3, 1, 2).float() / 127.5 - 1)
    assert (latents[0] - wanted[0]).abs().max() < 0.01
    assert latents_to_image(teacher.vae, latents.float()).shape == (3, 3, 64, 64)


def test_the_encoding_of_pictures_reports_its_progress(folder):
    """Thousands take hours on a CPU, and a slice without progress counts as hung."""
    seen = []

    def watcher(title: str, done: int, total: int) -> bool:
        seen.append((done, total))
        return False

    with progress.watched(watcher):
        real_images.read_latents(folder, teacher=toys.teacher(), catalogue=toys.catalogue())
    assert seen == [(1, 1)]


def test_a_snapshot_without_pictures_has_no_real_images(tmp_path):
    assert real_images.read_pictures(tmp_path, catalogue=toys.catalogue()) is None


def test_a_share_of_the_targets_is_replaced_by_real_images_of_the_same_prompt():
    images = RealImages(
        torch.tensor([30.0, 10.0, 20.0]).half().view(3, 1, 1, 1),
        which=torch.tensor([1, 2, 0]),
        prompts=torch.tensor([0, 0, 2]),
    )
    prompts = torch.tensor([0, 1, 2]).repeat(400)
    targets = torch.zeros(len(prompts), 1, 1, 1)

    def mixed(share: float) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return images.mixed_into(targets, prompts, share=share, generator=generator).flatten()

    half = mixed(0.5)
    assert not targets.any()  # those of the pairs stay as they are
    assert set(half[prompts == 0].tolist()) == {0.0, 10.0, 20.0}
    assert not half[prompts == 1].any()
    assert 0.4 < (half[prompts == 2] == 30).float().mean() < 0.6
    assert mixed(0).equal(targets.flatten())
    assert set(mixed(1)[prompts == 2].tolist()) == {30.0}


def test_pictures_replace_the_teachers_pictures(folder):
    found = real_images.read_pictures(folder, catalogue=toys.catalogue())
    assert found.samples.dtype == torch.uint8
    mixed = found.mixed_into(
        torch.zeros(2, 3, 64, 64), torch.tensor([2, 1]), share=1.0, generator=torch.Generator()
    )
    wanted = torch.tensor(list(picture(2, width=64, height=64).tobytes())).view(64, 64, 3)
    assert ((mixed[0] + 1) * 127.5).round().byte().equal(wanted.permute(2, 0, 1).byte())
    assert not mixed[1].any()  # the second variant has none


def test_only_the_heads_learn_from_real_images(folder):
    adversarial = replace(ADVERSARIAL, learn_after=0, field_share=1.0)
    recipe = replace(RECIPE, adversarial=adversarial)
    images = real_images.read_latents(folder, teacher=toys.teacher(), catalogue=toys.catalogue())
    with_images, without = task_of(recipe, real_images=images), task_of(recipe)
    for task in (with_images, without):
        steps(task, [0])
    assert not same(with_images, without, "heads") and same(with_images, without, "fake")
    with pytest.raises(ValueError, match="field_share"):
        AdversarialRecipe(field_share=1.5)
