"""Sampling: noise schedulers and their timesteps."""

from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from generation.engine import sampling
from generation.engine.errors import ReleaseInvalid
from tests.tiny import PNDM_CONFIG

UNEVEN = [999, 700, 320, 10]
DETERMINISTIC = ("ddim", "dpmsolver++", "unipc", "euler")
CONFIG = {**PNDM_CONFIG, "set_alpha_to_one": True}


def draw(seed: int) -> torch.Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


class Oracle:
    """A perfect network for the image x0 and the noise: every correct sampler stays on the line between them."""

    def __init__(
        self, name: str, prediction_type: str, timesteps: list[int], **config: Any
    ) -> None:
        self.noise_scheduler = sampling.make(
            name, {**CONFIG, **config, "prediction_type": prediction_type}, timesteps
        )
        self.prediction_type = prediction_type
        self.x0 = draw(1)

    def levels(self, timestep: Any) -> tuple[torch.Tensor, torch.Tensor]:
        alpha = self.noise_scheduler.alphas_cumprod[int(timestep)]
        return alpha.sqrt(), (1 - alpha).sqrt()

    def answer(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
        signal, noise = self.levels(timestep)
        epsilon = (x - signal * self.x0) / noise
        return {
            "epsilon": epsilon,
            "sample": self.x0,
            "v_prediction": signal * epsilon - noise * self.x0,
        }[self.prediction_type]

    def run(self, **options: Any) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return the network's inputs and the result."""
        noise_scheduler = self.noise_scheduler
        x = draw(2) * noise_scheduler.init_noise_sigma
        inputs = []
        for timestep in noise_scheduler.timesteps:
            inputs.append(noise_scheduler.scale_model_input(x, timestep))
            output = self.answer(inputs[-1], timestep)
            x = noise_scheduler.step(output, timestep, x, return_dict=False, **options)[0]
        return inputs, x


@pytest.mark.parametrize("name", sampling.NAMES)
@pytest.mark.parametrize("timesteps", [UNEVEN, [999], [499], [999, 749, 499, 249], [3, 2, 1, 0]])
def test_exactly_the_given_timesteps_are_visited(name: str, timesteps: list[int]) -> None:
    noise_scheduler = sampling.make(name, PNDM_CONFIG, timesteps)
    assert [int(t) for t in noise_scheduler.timesteps] == timesteps


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_between_uneven_timesteps_the_noise_follows_the_trained_schedule(
    name: str, prediction_type: str
) -> None:
    oracle = Oracle(name, prediction_type, UNEVEN)
    inputs, result = oracle.run()
    signal, noise = oracle.levels(UNEVEN[0])
    epsilon = (inputs[0] - signal * oracle.x0) / noise
    for x, timestep in zip(inputs, UNEVEN, strict=True):
        signal, noise = oracle.levels(timestep)
        assert torch.allclose(x, signal * oracle.x0 + noise * epsilon, atol=2e-3), timestep
    assert torch.allclose(result, oracle.x0, atol=2e-3)


@pytest.mark.parametrize("name", sampling.DRAWS_NOISE)
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_samplers_that_draw_noise_end_at_the_image(name: str, prediction_type: str) -> None:
    oracle = Oracle(name, prediction_type, UNEVEN)
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    _, result = oracle.run(generator=generators)
    assert torch.allclose(result, oracle.x0, atol=0.2)  # TCD ends at timestep 0, not at no noise


@pytest.mark.parametrize("name", sampling.NAMES)
def test_zero_terminal_snr_starts_from_pure_noise_and_ends_at_the_image(name: str) -> None:
    oracle = Oracle(name, "v_prediction", UNEVEN, rescale_betas_zero_snr=True)
    options = {}
    if name in sampling.DRAWS_NOISE:
        options["generator"] = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    inputs, result = oracle.run(**options)
    # At most 2⁻¹² of the image, which keeps the sigmas of some samplers finite.
    assert torch.allclose(inputs[0], draw(2), atol=2e-3)
    assert torch.allclose(result, oracle.x0, atol=0.2 if options else 2e-3)


@pytest.mark.parametrize("name", sampling.NAMES)
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_the_clean_image_is_predicted_at_each_step_whatever_the_sampler(
    name: str, prediction_type: str
) -> None:
    oracle = Oracle(name, prediction_type, UNEVEN)
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    inputs, _ = oracle.run(**({"generator": generators} if name in sampling.DRAWS_NOISE else {}))
    for model_input, timestep in zip(inputs, oracle.noise_scheduler.timesteps, strict=True):
        output = oracle.answer(model_input, timestep)
        clean = sampling.predict_clean(oracle.noise_scheduler, model_input, output, timestep)
        assert torch.allclose(clean, oracle.x0, atol=1e-4), timestep


@pytest.mark.parametrize("steps", [1, 4, 10, 20, 50])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_on_even_timesteps_ddim_equals_that_of_diffusers(steps: int, spacing: str) -> None:
    config = {**PNDM_CONFIG, "timestep_spacing": spacing}
    stock = DDIMScheduler.from_config(config)
    stock.set_timesteps(steps)
    ours = sampling.make("ddim", config, sampling.default_timesteps(config, steps))
    assert torch.equal(ours.timesteps, stock.timesteps)
    x = y = draw(0)
    for timestep in stock.timesteps:
        x = stock.step(torch.tanh(x), timestep, x, return_dict=False)[0]
        y = ours.step(torch.tanh(y), timestep, y, return_dict=False)[0]
    assert torch.allclose(x, y, atol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"beta_schedule": "scaled_linear", "beta_end": 0.012, "set_alpha_to_one": False},
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
        {"trained_betas": [0.0001 * step for step in range(1, 1001)], "prediction_type": "sample"},
    ],
)
def test_ddim_has_the_noise_levels_of_diffusers(config: dict[str, Any]) -> None:
    stock = DDIMScheduler(**config, timestep_spacing="trailing", clip_sample=False)
    stock.set_timesteps(4)
    ours = sampling.make("ddim", config, [int(timestep) for timestep in stock.timesteps])
    assert torch.allclose(ours.alphas_cumprod, stock.alphas_cumprod, atol=1e-6)
    x = y = draw(0)
    for timestep in stock.timesteps:
        x = stock.step(torch.tanh(x), timestep, x, return_dict=False)[0]
        y = ours.step(torch.tanh(y), timestep, y, return_dict=False)[0]
    assert torch.allclose(x, y, atol=1e-4)


def test_an_unknown_noise_schedule_is_refused() -> None:
    with pytest.raises(ReleaseInvalid, match="beta_schedule is 'exp'"):
        sampling.make("ddim", {"beta_schedule": "exp"}, [999])


def test_the_timesteps_of_stable_diffusion_are_those_that_diffusers_visits() -> None:
    leading = sampling.default_timesteps(PNDM_CONFIG, 50)
    assert (leading[0], leading[1], leading[-1]) == (981, 961, 1)
    trailing = sampling.default_timesteps({**PNDM_CONFIG, "timestep_spacing": "trailing"}, 30)
    assert (trailing[0], trailing[1], trailing[-1], len(trailing)) == (999, 966, 32, 30)


@pytest.mark.parametrize("name", sampling.DRAWS_NOISE)
def test_the_noise_of_an_image_does_not_depend_on_its_batch(name: str) -> None:
    def run(rows: list[int]) -> torch.Tensor:
        noise_scheduler = sampling.make(name, PNDM_CONFIG, UNEVEN)
        generators = [torch.Generator().manual_seed(row) for row in rows]
        x = torch.stack([torch.full((4, 8, 8), float(row)) for row in rows])
        for timestep in noise_scheduler.timesteps:
            x = noise_scheduler.step(x * 0.1, timestep, x, generator=generators, return_dict=False)[
                0
            ]
        return x

    together = run([0, 1, 2])
    assert torch.allclose(together[1:2], run([1]), atol=1e-6)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


def test_every_batch_gets_its_own_noise_scheduler() -> None:
    first = sampling.make("unipc", PNDM_CONFIG, UNEVEN)
    first.step(draw(0), first.timesteps[0], draw(1))
    assert sampling.make("unipc", PNDM_CONFIG, UNEVEN).step_index is None


@pytest.mark.parametrize(
    ("name", "config", "timesteps", "message"),
    [
        ("pndm", {}, UNEVEN, "'pndm' is not one of ddim"),
        ("ddim", {}, [1000, 500], "from 0 to 999"),
        ("ddim", {}, [], "from 0 to 999"),
        ("ddim", {}, [500, -1], "from 0 to 999"),
        ("ddim", {}, [500, 500], "descending"),
        ("ddim", {"rescale_betas_zero_snr": True}, UNEVEN, "zero terminal"),
    ],
)
def test_invalid_samplers_are_refused(
    name: str, config: dict, timesteps: list[int], message: str
) -> None:
    with pytest.raises(ReleaseInvalid, match=message):
        sampling.make(name, {**PNDM_CONFIG, **config}, timesteps)


@pytest.mark.parametrize("name", sampling.DRAWS_NOISE)
def test_more_steps_than_a_network_was_distilled_at_are_refused(name: str) -> None:
    with pytest.raises(ReleaseInvalid, match="from 1 to 50, not 51"):
        sampling.default_timesteps(PNDM_CONFIG, 51, name=name)


@pytest.mark.parametrize("steps", [0, 1001])
def test_a_number_of_steps_that_does_not_exist_is_refused(steps: int) -> None:
    with pytest.raises(ReleaseInvalid, match="from 1 to 1000"):
        sampling.default_timesteps(PNDM_CONFIG, steps)
