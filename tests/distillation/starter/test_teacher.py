"""Training of the teacher: targets, timesteps, captions, and exact resumption."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from transformers import CLIPTokenizer

from distillation.starter import clip as clips
from distillation.starter import teacher
from distillation.starter.captions import captions
from distillation.starter.latents import Latents
from distillation.starter.teacher import (
    TeacherRecipe,
    TeacherTask,
    draw_timesteps,
    learning_rate,
    timestep_density,
)
from distillation.starter.words import COMBINATIONS, TRAINED
from distillation.training import loop, networks
from tests.distillation.starter import toys

torch.set_num_threads(1)

TOY = TeacherRecipe(
    channels=(8, 16),
    attends=(False, True),
    layers=1,
    heads=2,
    norm_groups=4,
    steps=30,
    batch=8,
    learning_rate=3e-3,
    warmup=4,
    ema_decay=0.9,
    validate_every=15,
    validated=6,
    is_bf16=False,
)


def album(count: int, views: int = 2) -> Latents:
    values = torch.randn(count, views, 2, 8, 8, generator=torch.Generator().manual_seed(count))
    return Latents(values.half(), tuple(TRAINED[number * 31 % 688] for number in range(count)))


@pytest.fixture(scope="module")
def conditions() -> teacher.Conditions:
    tokenizer = CLIPTokenizer.from_pretrained(toys.tokenizer_folder())
    return teacher.encode_captions(clips.load(toys.clip_folder()), tokenizer)


def make(
    conditions: teacher.Conditions, recipe: TeacherRecipe = TOY, count: int = 20
) -> TeacherTask:
    return TeacherTask(
        recipe, latents=album(count), validation=album(6, views=1), conditions=conditions
    )


def run(task: TeacherTask, folder: Path, steps: int) -> None:
    loop.run(task, folder, steps=steps, seed=3, title="", progress_bar=False)


@pytest.mark.slow
def test_training_learns_and_writes_folders_that_diffusers_loads(tmp_path: Path) -> None:
    teacher.train(
        TOY,
        latents=album(4),
        validation=album(4, views=1),
        clip_folder=toys.clip_folder(),
        tokenizer_folder=toys.tokenizer_folder(),
        folder=tmp_path,
        progress_bar=False,
    )
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert len([line for line in lines if "validation_loss" in line]) == 2
    unet = networks.load(UNet2DConditionModel, tmp_path / "unet")
    assert unet.config.cross_attention_dim == toys.TEXT_WIDTH and unet.config.sample_size == 8
    noise_scheduler = DDIMScheduler.from_pretrained(tmp_path / "scheduler")
    noise_scheduler.set_timesteps(50)
    assert noise_scheduler.timesteps[0] == 999 and noise_scheduler.alphas_cumprod[999] == 0
    assert noise_scheduler.config.prediction_type == "v_prediction"


@pytest.mark.slow
def test_an_interrupted_training_ends_with_the_same_weights(
    conditions: teacher.Conditions, tmp_path: Path
) -> None:
    at_once = make(conditions)
    run(at_once, tmp_path / "at-once", 8)
    run(make(conditions), tmp_path / "twice", 5)
    resumed = make(conditions)
    run(resumed, tmp_path / "twice", 8)
    expected = at_once.averaged.state_dict()
    found = resumed.averaged.state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_the_averaged_weights_follow_the_training_and_are_saved(
    conditions: teacher.Conditions, tmp_path: Path
) -> None:
    task = make(conditions)
    at_first = {key: value.clone() for key, value in task.averaged.state_dict().items()}
    run(task, tmp_path, 4)
    averaged, last = task.averaged.state_dict(), task.unet.state_dict()
    key = "conv_in.weight"
    assert not torch.equal(averaged[key], at_first[key])
    assert not torch.equal(averaged[key], last[key])
    networks.save(task.averaged, tmp_path / "unet")
    saved = networks.load(UNet2DConditionModel, tmp_path / "unet").state_dict()
    assert all(torch.equal(saved[name], averaged[name]) for name in averaged)


def test_captions_are_encoded_as_the_engine_does(conditions: teacher.Conditions) -> None:
    clip = clips.load(toys.clip_folder())
    tokenizer = CLIPTokenizer.from_pretrained(toys.tokenizer_folder())
    number = 401
    for phrasing, text in enumerate(captions(COMBINATIONS[number])):
        ids = clips.tokenise(tokenizer, [text])
        expected = clip.text_model(input_ids=ids).last_hidden_state[0]
        row = conditions.rows[number, phrasing]
        assert torch.allclose(conditions.embeds[row], expected, atol=1e-5)
    empty = clip.text_model(input_ids=clips.tokenise(tokenizer, [""])).last_hidden_state[0]
    assert torch.allclose(conditions.embeds[0], empty, atol=1e-5)


def test_the_target_is_v_as_diffusers_defines_it(conditions: teacher.Conditions) -> None:
    class StubUNet(torch.nn.Module):
        """Returns `answer` and keeps its input."""

        def forward(self, noisy, timesteps, encoder_hidden_states, return_dict):  # type: ignore[no-untyped-def]
            self.noisy = noisy
            return (self.answer,)

    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(4, 2, 8, 8, generator=generator)
    noise = torch.randn(4, 2, 8, 8, generator=generator)
    timesteps = torch.tensor([0, 400, 800, 999])
    noise_scheduler = teacher.noise_scheduler()
    unet = StubUNet()
    unet.answer = noise_scheduler.get_velocity(latents, noise, timesteps)
    loss = make(conditions)._loss(unet, latents, noise, timesteps, conditions.embeds[:4])
    assert loss.item() == pytest.approx(0, abs=1e-10)
    assert torch.allclose(
        unet.noisy, noise_scheduler.add_noise(latents, noise, timesteps), atol=1e-6
    )
    assert torch.equal(unet.noisy[3], noise[3])  # zero terminal SNR: pure noise


def test_the_density_is_that_of_min_snr_with_a_floor() -> None:
    alphas = teacher.noise_scheduler().alphas_cumprod.double()
    snr = alphas[:999] / (1 - alphas[:999])
    weights = snr.clamp(max=5) / (snr + 1)
    plain = timestep_density(replace(TOY, weight_floor=0.0))
    assert torch.allclose(plain[:999], weights / weights.sum(), atol=1e-9) and plain[999] == 0
    floored = timestep_density(replace(TOY, weight_floor=0.2))
    assert floored.sum().item() == pytest.approx(1)
    assert floored[999] == floored.min() > 0
    assert floored[700:].sum() > 0.15 > 0.02 > plain[700:].sum()


def test_timesteps_are_stratified_over_the_density_in_each_batch() -> None:
    density = timestep_density(TOY)
    cumulative = density.cumsum(0)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([draw_timesteps(cumulative, 32, generator) for _ in range(300)])
    assert drawn.min() >= 0 and drawn.max() <= 999 and (drawn[:, -1] > 990).any()
    for part in (slice(0, 100), slice(300, 500), slice(800, 1000)):
        inside = (drawn >= part.start) & (drawn < part.stop)
        expected = density[part].sum().item()
        assert inside.float().mean().item() == pytest.approx(expected, abs=0.01)
        assert (
            inside.sum(1) - 32 * expected
        ).abs().max() < 1 + 1e-6  # each batch, not only on average


def test_every_photograph_is_drawn_once_per_epoch(conditions: teacher.Conditions) -> None:
    task = make(conditions, count=20)  # 8 per step: the third step crosses into the second epoch
    rows = torch.cat([task._rows(index) for index in range(5)])
    assert sorted(rows[:20].tolist()) == list(range(20)) == sorted(rows[20:].tolist())
    assert rows[:20].tolist() != rows[20:].tolist()
    assert torch.equal(
        make(conditions, count=20)._rows(2), rows[16:24]
    )  # depends only on the index


def test_captions_vary_and_a_tenth_are_empty(conditions: teacher.Conditions) -> None:
    task = make(conditions)
    rows = torch.zeros(4000, dtype=torch.int64)
    drawn = task._draw_captions(rows, torch.Generator().manual_seed(0))
    is_empty = (drawn == conditions.embeds[0]).all(dim=(1, 2))
    assert is_empty.float().mean().item() == pytest.approx(TOY.empty_captions, abs=0.02)
    allowed = conditions.embeds[conditions.rows[COMBINATIONS.index(album(20).combinations[0])]]
    found = {
        number
        for embed in drawn[~is_empty][:200]
        for number in range(len(allowed))
        if torch.equal(embed, allowed[number])
    }
    assert found == set(range(len(allowed)))


def test_validation_is_deterministic(conditions: teacher.Conditions) -> None:
    task = make(conditions)
    assert task._validate() == task._validate() == make(conditions)._validate()


def test_bf16_is_near_fp32(conditions: teacher.Conditions, monkeypatch) -> None:
    monkeypatch.setattr(networks, "cpu_has_bf16", lambda: True)  # emulated elsewhere
    exact, rough = make(conditions), make(conditions, replace(TOY, is_bf16=True))
    assert rough._validate() == pytest.approx(exact._validate(), rel=0.02)


def test_only_matrices_and_kernels_have_weight_decay(conditions: teacher.Conditions) -> None:
    task = make(conditions)
    decayed, others = task.optimizers["unet"].param_groups
    assert decayed["weight_decay"] == TOY.weight_decay and others["weight_decay"] == 0
    assert all(p.ndim > 1 for p in decayed["params"]) and all(p.ndim == 1 for p in others["params"])


def test_the_learning_rate_warms_up_stays_constant_and_decays_over_the_last_share() -> None:
    rates = [learning_rate(TOY, index) for index in range(TOY.steps)]
    assert rates[0] == pytest.approx(3e-3 / 4) and rates[3:18] == [3e-3] * 15
    assert all(later < earlier for earlier, later in pairwise(rates[18:]))
    assert 0 < rates[-1] < 1e-4
