"""A teacher's schedule equals diffusers' noise schedulers, for ε, v and x₀, with zero terminal SNR as well."""

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from distillation.trainers.schedule import CLEAN, NoiseSchedule
from generation.engine import sampling
from tests.tiny import PNDM_CONFIG

TYPES = [
    pytest.param("epsilon", False, id="epsilon"),
    pytest.param("v_prediction", False, id="v"),
    pytest.param("v_prediction", True, id="v, zero terminal SNR"),
    pytest.param("sample", True, id="x0, zero terminal SNR"),
]


def config(prediction_type: str, zero_snr: bool) -> dict:
    """A scheduler_config.json with fields that DDIM does not know, as Stable Diffusion 1.5's."""
    return {
        **PNDM_CONFIG,
        "prediction_type": prediction_type,
        "rescale_betas_zero_snr": zero_snr,
        "timestep_spacing": "trailing",
        "set_alpha_to_one": True,
    }


def stock(prediction_type: str, zero_snr: bool) -> DDIMScheduler:
    accepted = DDIMScheduler._get_init_keys(DDIMScheduler)
    given = config(prediction_type, zero_snr)
    return DDIMScheduler(**{name: value for name, value in given.items() if name in accepted})


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("prediction_type", "zero_snr"), TYPES)
def test_the_coefficients_are_those_that_diffusers_adds_noise_with(prediction_type, zero_snr):
    schedule = NoiseSchedule.from_config(config(prediction_type, zero_snr))
    assert len(schedule) == 1000
    assert schedule.prediction_type == prediction_type
    x0, noise = drawn(4, 3, 2, 2, seed=0), drawn(4, 3, 2, 2, seed=1)
    timesteps = torch.tensor([999, 625, 1, 0])
    expected = stock(prediction_type, zero_snr).add_noise(x0, noise, timesteps)
    assert torch.allclose(schedule.noised(x0, noise, timesteps), expected, atol=1e-6)
    alpha, sigma = schedule.coefficients(timesteps)
    assert alpha.dtype == sigma.dtype == torch.float64
    assert torch.allclose(alpha.square() + sigma.square(), torch.ones(4, dtype=torch.float64))
    assert (alpha[0] == 0) == zero_snr


def test_a_configuration_that_names_no_prediction_type_predicts_noise():
    assert NoiseSchedule.from_config(PNDM_CONFIG).prediction_type == "epsilon"


def test_the_clean_latents_are_a_timestep_too():
    schedule = NoiseSchedule.from_config(config("v_prediction", True))
    alpha, sigma = schedule.coefficients(torch.tensor([CLEAN, 500, CLEAN]))
    assert alpha[[0, 2]].tolist() == [1, 1] and sigma[[0, 2]].tolist() == [0, 0]
    assert 0 < alpha[1] < 1
    x0 = drawn(2, 1, 2, 2, seed=0)
    noised = schedule.noised(x0, drawn(2, 1, 2, 2, seed=1), torch.tensor([CLEAN, 500]))
    assert torch.equal(noised[0], x0[0]) and not torch.equal(noised[1], x0[1])


@pytest.mark.parametrize("source", ["epsilon", "v_prediction", "sample"])
def test_a_right_prediction_of_any_type_means_the_same_x0_noise_and_velocity(source):
    schedule = NoiseSchedule.from_config(config(source, False))
    x0, noise = drawn(3, 4, 2, 2, seed=0), drawn(3, 4, 2, 2, seed=1)
    timesteps = torch.tensor([999, 500, 10])
    latents = schedule.noised(x0, noise, timesteps)
    alpha, sigma = (part.float().view(3, 1, 1, 1) for part in schedule.coefficients(timesteps))
    right = {"epsilon": noise, "sample": x0, "v_prediction": alpha * noise - sigma * x0}
    for target, expected in right.items():
        found = schedule.converted(right[source], latents, timesteps, target=target)
        assert torch.allclose(found, expected, atol=3e-5), target  # 1 ÷ α is 14.6 at 999
    assert torch.allclose(schedule.as_x0(right[source], latents, timesteps), x0, atol=3e-5)
    given = schedule.converted(x0, latents, timesteps, source="sample", target="v_prediction")
    assert torch.allclose(given, right["v_prediction"], atol=3e-5)


@pytest.mark.parametrize(("prediction_type", "zero_snr"), TYPES)
def test_a_step_is_diffusers_ddim_step(prediction_type, zero_snr):
    """Down to the clean latents, at even spacing, which is all that diffusers' own DDIM can do."""
    schedule = NoiseSchedule.from_config(config(prediction_type, zero_snr))
    noise_scheduler = stock(prediction_type, zero_snr)
    noise_scheduler.config["clip_sample"] = False
    noise_scheduler.set_timesteps(4)
    walked = noise_scheduler.timesteps.tolist()
    assert walked == [999, 749, 499, 249]
    latents = drawn(2, 4, 2, 2, seed=0)
    for timestep, following in zip(walked, [*walked[1:], CLEAN], strict=True):
        prediction = drawn(2, 4, 2, 2, seed=timestep)
        expected = noise_scheduler.step(prediction, timestep, latents).prev_sample
        at = torch.full((2,), timestep)
        found = schedule.stepped(prediction, latents, at, torch.full_like(at, following))
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5), timestep
        latents = found


@pytest.mark.parametrize(("prediction_type", "zero_snr"), TYPES)
def test_a_step_is_the_engines_at_any_timesteps(prediction_type, zero_snr):
    walked = [999, 625, 130]
    given = config(prediction_type, zero_snr)
    noise_scheduler = sampling.make("ddim", given, walked)
    schedule = NoiseSchedule.from_config(given)
    latents = drawn(2, 4, 2, 2, seed=0)
    for timestep, following in zip(walked, [*walked[1:], CLEAN], strict=True):
        prediction = drawn(2, 4, 2, 2, seed=timestep)
        expected = noise_scheduler.step(prediction, timestep, latents)[0]
        at = torch.full((2,), timestep)
        found = schedule.stepped(prediction, latents, at, torch.full_like(at, following))
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5), timestep
        latents = found


def test_each_row_may_have_its_own_timesteps():
    schedule = NoiseSchedule.from_config(config("v_prediction", True))
    latents, prediction = drawn(3, 4, 2, 2, seed=0), drawn(3, 4, 2, 2, seed=1)
    now, following = torch.tensor([999, 700, 300]), torch.tensor([500, CLEAN, 100])
    together = schedule.stepped(prediction, latents, now, following)
    for row in range(3):
        one = slice(row, row + 1)
        alone = schedule.stepped(prediction[one], latents[one], now[one], following[one])
        assert torch.equal(together[one], alone)


def test_x0_cannot_be_computed_from_noise_at_zero_terminal_snr():
    schedule = NoiseSchedule.from_config(config("epsilon", True))
    latents = drawn(1, 4, 2, 2, seed=0)
    with pytest.raises(ValueError, match="zero terminal SNR"):
        schedule.as_x0(latents, latents, torch.tensor([999]))
    schedule.as_x0(latents, latents, torch.tensor([998]))
