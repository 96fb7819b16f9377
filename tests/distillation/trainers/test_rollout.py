"""A student's passes in training are those of serving, and a collapse is measured."""

import json

import pytest
import torch

from distillation.trainers import rollout
from distillation.trainers.rollout import Examples, Rollout
from distillation.training.errors import RecipeRefused
from generation.engine import sampling
from tests.distillation.trainers import few_step_toys as toys

TIMESTEPS = (999, 499, 249)


@pytest.fixture(scope="module", params=toys.KINDS)
def teacher(request):
    return toys.teacher(request.param)


@pytest.fixture
def student(teacher):
    return toys.student(teacher).requires_grad_(False)


def noise_and_embeds(teacher, count: int = 2):
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(count, *teacher.latent_shape, generator=generator)
    return noise, toys.catalogue().embeds(torch.arange(count) % 3)


@torch.no_grad()
def served(teacher, student, noise, embeds, timesteps) -> list[torch.Tensor]:
    """Return the latents before each pass and after the last, by the engine's noise scheduler."""
    path = teacher.folder / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text("utf-8"))
    config |= {"set_alpha_to_one": True, "prediction_type": teacher.schedule.prediction_type}
    noise_scheduler = sampling.make("ddim", config, timesteps)
    states = [noise]
    for t in noise_scheduler.timesteps:
        prediction = student(states[-1], t, encoder_hidden_states=embeds).sample
        states.append(noise_scheduler.step(prediction, t, states[-1])[0])
    return states


@pytest.mark.parametrize("timesteps", [TIMESTEPS[:1], TIMESTEPS[:2], TIMESTEPS])
def test_all_passes_end_where_the_engine_ends(teacher, student, timesteps):
    noise, embeds = noise_and_embeds(teacher)
    latents = Rollout(teacher, timesteps).walk(student, noise, embeds)
    expected = served(teacher, student, noise, embeds, timesteps)[-1]
    torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-4)


def test_a_later_pass_gets_the_input_that_the_engine_gives_it(teacher, student):
    noise, embeds = noise_and_embeds(teacher)
    expected = served(teacher, student, noise, embeds, TIMESTEPS)
    for index in range(len(TIMESTEPS)):
        latents = Rollout(teacher, TIMESTEPS).arrive(student, noise, embeds, index=index)
        torch.testing.assert_close(latents, expected[index], rtol=1e-4, atol=1e-4)


def test_the_gradient_is_that_of_the_last_pass_alone(teacher):
    student = toys.student(teacher)
    noise, embeds = noise_and_embeds(teacher)
    latents = Rollout(teacher, TIMESTEPS).arrive(student, noise, embeds, index=1)
    assert not latents.requires_grad
    times = torch.full((2,), TIMESTEPS[1])
    x0 = Rollout(teacher, TIMESTEPS).estimate(student, latents, times, embeds)
    x0.square().mean().backward()
    assert x0.dtype == torch.float32
    assert all(torch.isfinite(p.grad).all() for p in student.parameters() if p.grad is not None)
    assert student.conv_in.weight.grad.abs().sum() > 0


def test_timesteps_beyond_the_teachers_are_refused(teacher):
    with pytest.raises(RecipeRefused, match="timesteps"):
        rollout.check((1000,), teacher.schedule)


def test_a_student_that_predicts_noise_cannot_begin_at_pure_noise():
    flat = toys.teacher("v at zero terminal SNR").schedule
    rollout.check([999, 499], flat)
    of_noise = type(flat)("epsilon", flat.alphas, flat.sigmas)
    with pytest.raises(RecipeRefused, match="999"):
        rollout.check([999], of_noise)
    rollout.check([998], of_noise)


# --- examples -------------------------------------------------------------------------------------
def test_examples_are_the_pairs_with_their_prompts(teacher):
    pairs = toys.pairs(teacher)
    examples = Examples(teacher, pairs=pairs, catalogue=toys.catalogue())
    rows = torch.arange(len(pairs))
    assert examples.targets(rows).equal(pairs.latents.float())
    assert examples.noise(rows).equal(pairs.noise(rows))
    assert examples.embeds(rows).equal(toys.catalogue().embeds(pairs.prompts))
    assert examples.path(rows, 499).equal(pairs.path[:, 2].float())
    drawn = examples.drawn(200, torch.Generator().manual_seed(0))
    assert sorted(set(drawn.tolist())) == rows.tolist()


def test_rows_by_prompt_hold_several_seeds_of_few_prompts(teacher):
    examples = Examples(teacher, pairs=toys.pairs(teacher), catalogue=toys.catalogue())
    assert examples.prompts(examples.by_prompt(6)).tolist() == [0, 0, 0, 0, 1, 1]


def test_pairs_of_another_catalogue_are_refused(teacher):
    with pytest.raises(RecipeRefused, match="catalogue"):
        Examples(teacher, pairs=toys.pairs(teacher), catalogue=toys.catalogue(2))


# --- likeness -------------------------------------------------------------------------------------
def test_likeness_distinguishes_a_copy_a_collapse_and_oversaturation():
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(6, 4, 8, 8, generator=generator)
    prompts = torch.tensor([0, 0, 0, 1, 1, 1])
    copied = rollout.likeness(target, target, prompts)
    assert copied == pytest.approx({"error": 0, "std_ratio": 1, "diversity": 1})
    collapsed = rollout.likeness(target[[0, 0, 0, 3, 3, 3]], target, prompts)
    assert collapsed["diversity"] == 0
    assert collapsed["error"] > 1
    assert rollout.likeness(1.5 * target, target, prompts)["std_ratio"] == pytest.approx(1.5)


def test_diversity_is_left_out_for_single_images():
    target = torch.randn(3, 4, 8, 8)
    assert "diversity" not in rollout.likeness(target, target, torch.tensor([0, 1, 2]))


def test_watch_compares_with_the_teachers_results_for_the_same_noise(teacher, student):
    examples = Examples(teacher, pairs=toys.pairs(teacher), catalogue=toys.catalogue())
    # The teacher's own weights in all of its steps are the teacher, but for guidance.
    unguided = toys.pairs(toys.teacher_without_guidance(teacher))
    own = Examples(teacher, pairs=unguided, catalogue=toys.catalogue())
    passes = Rollout(teacher, tuple(toys.PATH))
    exact = passes.watch(student, own, count=8)
    assert exact["watched_error"] < 5e-3  # latents are kept in fp16
    assert exact["watched_diversity"] == pytest.approx(1, abs=1e-2)
    guided = passes.watch(student, examples, count=8)
    assert guided["watched_error"] > 5 * exact["watched_error"]
