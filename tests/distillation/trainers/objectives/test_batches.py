"""A batch has the samples that its shares demand, at timesteps drawn by the density."""

import pytest
import torch

from distillation.starter import teacher as starter
from distillation.trainers.objectives.batches import Batches, Shares, density, draw_timesteps
from distillation.training.errors import RecipeRefused

from . import toys


@pytest.mark.parametrize("kind", toys.TYPES)
def test_noised_samples_are_latents_of_the_pairs_and_the_hard_target_leads_back(kind):
    teacher = toys.teacher(kind)
    batch = toys.batches(teacher, size=10).draw(toys.generator())
    assert len(batch.latents) == len(batch.timesteps) == len(batch.prompt_embeds) == 10
    assert len(batch.hard) == 6  # 3 of the paths, 1 of pure noise
    times, latents = batch.timesteps[:6], batch.latents[:6]
    times = times.clamp(max=900)  # nearer to pure noise x₀ cannot be computed from ε
    is_low = batch.timesteps[:6] == times
    assert is_low.sum() >= 3
    found = teacher.schedule.as_x0(batch.hard, latents, times)
    stored = toys.pairs().latents.float()
    distances = (found[:, None] - stored).abs().amax((2, 3, 4)).amin(1)
    assert (distances[is_low] < 1e-3).all()


def test_the_noise_is_not_the_one_that_made_the_latents():
    teacher = toys.teacher()
    batch = toys.batches(teacher, size=10).draw(toys.generator())
    noise = teacher.schedule.converted(
        batch.hard, batch.latents[:6], batch.timesteps[:6], target="epsilon"
    )
    own = toys.pairs().noise(torch.arange(12))
    assert (noise[:, None] - own).abs().amax((2, 3, 4)).amin() > 0.5


def test_path_samples_are_the_stored_points_at_their_timesteps():
    batch = toys.batches(toys.teacher(), size=10).draw(toys.generator())
    pairs, catalogue = toys.pairs(), toys.catalogue()
    for number in range(6, 9):
        found = (pairs.path.float() == batch.latents[number]).flatten(2).all(2).nonzero()
        row, point = found[0].tolist()
        assert batch.timesteps[number] == pairs.path_timesteps[point]
        embeds = catalogue.embeds(pairs.prompts[row : row + 1])[0]
        assert torch.equal(batch.prompt_embeds[number], embeds)


def test_first_samples_are_the_noise_of_a_seed_at_the_teachers_first_timestep():
    batches = toys.batches(toys.teacher("epsilon"), size=10, first_timestep_share=0.2)
    batch = batches.draw(toys.generator())
    assert (batch.timesteps[-2:] == 999).all()
    own = toys.pairs().noise(torch.arange(12))
    for latents in batch.latents[-2:]:
        assert (own == latents).flatten(1).all(1).any()


def test_a_batch_depends_on_the_generator_alone():
    batches = toys.batches(toys.teacher())
    first, again, other = (batches.draw(toys.generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(first.latents, again.latents)
    assert not torch.equal(first.latents, other.latents)


def test_only_noised_has_a_hard_target_for_every_sample():
    batch = toys.batches(toys.teacher()).only_noised(4).draw(toys.generator())
    assert len(batch.latents) == len(batch.hard) == 4


def test_the_density_is_the_starter_teachers():
    schedule = toys.teacher().schedule
    assert torch.allclose(
        density(schedule, gamma=5.0, floor=0.35),
        starter.timestep_density(starter.TeacherRecipe()),
        atol=1e-7,
    )


@pytest.mark.parametrize("kind", toys.TYPES)
def test_the_noisiest_step_is_trained(kind):
    found = density(toys.teacher(kind).schedule, gamma=5.0, floor=0.35)
    assert found[-1] >= 0.35 * found.max()
    assert found.sum() == pytest.approx(1)


def test_timesteps_are_drawn_by_the_density():
    weights = torch.tensor([0.5, 0.0, 0.3, 0.2], dtype=torch.float64)
    times = draw_timesteps(weights.cumsum(0), 1000, toys.generator())
    assert torch.bincount(times, minlength=4).tolist() == pytest.approx([500, 0, 300, 200], abs=1)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"path_share": 1.0}, "path_share"),
        ({"first_timestep_share": -0.1}, "first_timestep_share"),
        ({"path_share": 0.6, "first_timestep_share": 0.4}, "path_share"),
        ({"min_snr_gamma": 0.0}, "min_snr_gamma"),
        ({"weight_floor": 0.0}, "weight_floor"),  # at zero terminal SNR the last step would go
    ],
)
def test_invalid_shares_are_refused(fields, named):
    with pytest.raises(ValueError, match=named):
        Shares(**fields)


def test_pairs_that_lack_what_a_batch_needs_are_refused():
    teacher, pairs = toys.teacher(), toys.pairs()

    def make(of, size=6):
        return Batches(Shares(), size=size, teacher=teacher, pairs=of, catalogue=toys.catalogue())

    bare = type(pairs)(**{**vars(pairs), "path": pairs.path[:, :0], "path_timesteps": ()})
    with pytest.raises(RecipeRefused, match="path_share"):
        make(bare)
    with pytest.raises(RecipeRefused, match="another catalogue"):
        make(type(pairs)(**{**vars(pairs), "prompts": pairs.prompts + 1}))
    with pytest.raises(RecipeRefused, match="no pairs"):
        make(pairs.take(torch.zeros(len(pairs), dtype=torch.bool)))
    with pytest.raises(RecipeRefused, match="batch"):
        make(pairs, size=2)
