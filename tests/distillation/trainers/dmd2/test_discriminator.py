"""The heads learn to classify the teacher's features, and their gradient moves latents towards the real ones."""

import math

import pytest
import torch

from distillation.losses import adversarial
from distillation.trainers.dmd2 import discriminator
from distillation.trainers.dmd2.discriminator import AdversarialRecipe
from distillation.trainers.perception import tapped
from distillation.training.errors import RecipeRefused
from tests.distillation.trainers import few_step_toys as toys

LAYERS = ("down_blocks.0", "down_blocks.1", "mid_block")
RECIPE = AdversarialRecipe(layers=LAYERS, width=8)


@pytest.fixture(scope="module")
def teacher():
    return toys.teacher()


def inputs(teacher, *, seed: int = 0, count: int = 6):
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(count, *teacher.latent_shape, generator=generator)
    timesteps = torch.randint(1000, (count,), generator=generator)
    return latents, timesteps, toys.catalogue().embeds(torch.arange(count) % 3)


def test_features_of_a_pass_that_is_cut_short_are_those_of_a_whole_pass(teacher):
    latents, timesteps, embeds = inputs(teacher)
    reached = []
    handle = teacher.unet.up_blocks[0].register_forward_hook(lambda *_: reached.append(True))
    maps = discriminator.features(teacher, latents, timesteps, embeds, layers=LAYERS)
    assert not reached
    handle.remove()
    with torch.no_grad(), tapped(teacher.unet, LAYERS) as expected:
        teacher.unet(latents, timesteps, encoder_hidden_states=embeds)
    assert all(part.equal(expected[name]) for name, part in zip(LAYERS, maps, strict=True))


def test_one_pass_gives_the_prediction_and_features_with_a_gradient(teacher):
    latents, timesteps, embeds = inputs(teacher)
    latents.requires_grad_()
    prediction, maps = discriminator.prediction_and_features(
        teacher, latents, timesteps, embeds, layers=LAYERS
    )
    assert not prediction.requires_grad
    expected = teacher.predict(latents.detach(), timesteps, embeds, guidance_scale=1)
    torch.testing.assert_close(prediction, expected)
    maps[-1].square().mean().backward()
    assert latents.grad.abs().sum() > 0
    assert all(p.grad is None for p in teacher.unet.parameters())


def test_every_place_of_every_map_has_a_logit(teacher):
    latents, timesteps, embeds = inputs(teacher)
    maps = discriminator.features(teacher, latents, timesteps, embeds, layers=LAYERS)
    heads = discriminator.make(RECIPE, teacher=teacher, seed=0)
    places = sum(part.shape[2] * part.shape[3] for part in maps)
    assert heads(maps).shape == (len(latents), places)
    assert heads(maps).dtype == torch.float32


def test_heads_are_initialised_by_the_seed_and_do_not_affect_other_draws(teacher):
    torch.manual_seed(4)
    expected = torch.rand(2)
    torch.manual_seed(4)
    first, second, other = (
        discriminator.make(RECIPE, teacher=teacher, seed=s).state_dict() for s in (1, 1, 2)
    )
    assert torch.rand(2).equal(expected)
    assert all(value.equal(second[key]) for key, value in first.items())
    assert not all(value.equal(other[key]) for key, value in first.items())


def loss_of(heads, teacher, fake, real, timesteps, embeds, recipe=RECIPE):
    shift = recipe.r1_noise * torch.randn(real.shape, generator=torch.Generator().manual_seed(8))
    return discriminator.heads_loss(
        recipe,
        heads,
        teacher=teacher,
        fake=fake,
        real=real,
        nearby=real + shift,
        timesteps=timesteps,
        prompt_embeds=embeds,
    )


def test_heads_learn_to_separate_latents_and_their_gradient_leads_to_the_real_ones(teacher):
    # Real latents have a square in a corner of one channel, the fake ones in another.
    latents, timesteps, embeds = inputs(teacher, count=12)
    fake, real = 0.3 * latents, 0.3 * latents.flip(0)
    fake[:, 0, :4, :4] += 2
    real[:, 1, 4:, 4:] += 2
    heads = discriminator.make(RECIPE, teacher=teacher, seed=0)
    optimizer = torch.optim.Adam(heads.parameters(), lr=3e-3)
    _, before = loss_of(heads, teacher, fake, real, timesteps, embeds)
    for _ in range(30):
        optimizer.zero_grad()
        loss, _ = loss_of(heads, teacher, fake, real, timesteps, embeds)
        loss.backward()
        optimizer.step()
    _, after = loss_of(heads, teacher, fake, real, timesteps, embeds)
    assert before["heads"] == pytest.approx(2 * math.log(2), abs=0.4)
    assert after["heads"] < 0.7 * before["heads"]
    assert after["heads_margin"] > 1

    moved = fake.clone().requires_grad_()
    _, maps = discriminator.prediction_and_features(
        teacher, moved, timesteps, embeds, layers=LAYERS
    )
    adversarial.student_loss(heads(maps)).backward()
    step = -moved.grad
    assert step[:, 0, :4, :4].mean() < 0 < step[:, 1, 4:, 4:].mean()


def test_r1_keeps_the_heads_flat_at_the_real_latents(teacher):
    latents, timesteps, embeds = inputs(teacher)
    fake, real = latents, latents.flip(0) + 1
    slopes = []
    for weight in (0.0, 5.0):
        recipe = AdversarialRecipe(layers=LAYERS, width=8, r1_weight=weight)
        heads = discriminator.make(recipe, teacher=teacher, seed=0)
        optimizer = torch.optim.Adam(heads.parameters(), lr=3e-3)
        for _ in range(20):
            optimizer.zero_grad()
            loss, parts = loss_of(heads, teacher, fake, real, timesteps, embeds, recipe)
            loss.backward()
            optimizer.step()
        slopes.append(parts["heads_r1"])
    assert slopes[1] < 0.3 * slopes[0]


def test_layers_that_the_teacher_lacks_are_refused(teacher):
    recipe = AdversarialRecipe(layers=("mid_block", "down_blocks.7"))
    with pytest.raises(RecipeRefused, match=r"layers has down_blocks\.7"):
        discriminator.make(recipe, teacher=teacher, seed=0)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"learn_after": 9, "gan_after": 8}, "learn_after"),
        ({"gan_weight": 0.0}, "gan_weight"),
        ({"r1_noise": 0.0}, "r1_noise"),
        ({"r1_weight": -1.0}, "r1_weight"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"width": 0}, "width"),
        ({"layers": ()}, "layers"),
        ({"layers": ("mid_block", "mid_block")}, "layers"),
    ],
)
def test_an_invalid_recipe_is_refused_with_its_field(change, field):
    with pytest.raises(ValueError, match=f"^{field} "):
        AdversarialRecipe(**change)
