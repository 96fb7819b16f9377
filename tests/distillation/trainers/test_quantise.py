"""A student's weights are rounded to the grid that a release stores, and tuning there restores its images."""

import functools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from distillation.trainers import quantise
from distillation.trainers.inputs import TuningInputs
from distillation.trainers.quantise import QuantiseRecipe, QuantiseTask, on_grid, rounded
from distillation.trainers.rollout import Examples, Rollout
from distillation.training import networks
from generation.engine import folding, quantization
from tests.distillation.trainers import few_step_toys as toys

torch.set_num_threads(1)

TOY = QuantiseRecipe(steps=20, batch=8, learning_rate=2e-5, warmup=6, ema_decay=0.8, measured=24)
LONG = replace(TOY, steps=45, learning_rate=1e-5, warmup=8)  # rounding alone is nearly as good
CASES = [
    ("v at zero terminal SNR", (999,)),
    ("v at zero terminal SNR", (999, 499)),
    ("epsilon as SD 1.5", (625,)),
    ("epsilon as SD 1.5", (625, 249)),
]
V, TWO = CASES[1]


def inputs_of(kind: str, timesteps: tuple[int, ...], folder: Path = Path("unused")) -> TuningInputs:
    teacher = toys.teacher(kind)
    return toys.inputs(folder, timesteps, of=teacher, pairs=toys.pairs(teacher, seeds=16))


def train(
    kind: str, timesteps: tuple[int, ...], folder: Path, recipe: QuantiseRecipe = TOY
) -> tuple[UNet2DConditionModel, UNet2DConditionModel, dict]:
    """Return the student, the result and the measurements."""
    inputs = inputs_of(kind, timesteps, folder)
    result = quantise.train(recipe, inputs)
    return inputs.student, result, json.loads((folder / "measured.json").read_text())


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory):
    """Return a function that gives `train`'s results and folder of a case. Each case is trained once."""

    @functools.cache
    def case(kind: str, timesteps: tuple[int, ...]):
        folder = tmp_path_factory.mktemp("quantise")
        return *train(kind, timesteps, folder, TOY if kind == V else LONG), folder

    return case


def assert_same(left: torch.nn.Module, right: torch.nn.Module) -> None:
    for name, value in left.state_dict().items():
        assert torch.equal(value, right.state_dict()[name]), name


@pytest.mark.parametrize(
    "kind, timesteps", [CASES[1], pytest.param(*CASES[2], marks=pytest.mark.slow)]
)
def test_tuning_brings_the_images_nearer_than_rounding_alone(
    tuned, kind: str, timesteps: tuple[int, ...]
) -> None:
    _, _, measured, _ = tuned(kind, timesteps)
    before, after = measured["before"], measured["after"]
    assert before["latents_psnr"] > 35
    assert after["latents_psnr"] > before["latents_psnr"] + 0.1
    assert measured["kept"] == "after"
    assert after["pictures_psnr"] > before["pictures_psnr"]
    assert before["latents_psnr_worst"] <= before["latents_psnr"]
    assert measured["seeds"] == 24 and measured["timesteps"] == list(timesteps)


def test_a_release_stores_the_weights_without_loss(tuned) -> None:
    _, result, _, folder = tuned(V, TWO)
    tensors = folding.fold(result, TWO)
    stored = quantization.quantise(tensors)
    given = quantization.dequantise(stored, torch.float32)
    assert given.keys() == tensors.keys()
    inexact = {name for name in tensors if not torch.equal(given[name], tensors[name])}
    # Time was folded into these, step by step, in fp32.
    assert all(name.endswith("conv1.bias") for name in inexact)
    assert sum(value.dtype == torch.int8 for value in stored.values()) > 20
    assert_same(networks.load(UNet2DConditionModel, folder / "unet"), result)


def test_the_student_stays_as_it_was_and_the_result_is_frozen(tuned) -> None:
    student, result, _, _ = tuned(V, TWO)
    assert_same(student, toys.student(toys.teacher(V)))
    assert not result.training and not any(p.requires_grad for p in result.parameters())


@pytest.mark.slow
def test_an_interrupted_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    recipe = replace(TOY, steps=2, warmup=0)
    toys.assert_resumes(lambda: QuantiseTask(recipe, inputs_of(V, (999,))), recipe, tmp_path)


def test_without_steps_the_weights_are_only_rounded(tmp_path: Path) -> None:
    recipe = replace(TOY, steps=0, warmup=0)
    student, result, measured = train(V, (999,), tmp_path, recipe)
    assert_same(result, rounded(student))
    assert measured["before"] == measured["after"] and measured["kept"] == "before"
    assert {path.name for path in tmp_path.iterdir()} == {"unet", "measured.json"}


@pytest.mark.slow
def test_a_tuning_that_makes_the_images_worse_is_not_kept(tmp_path: Path) -> None:
    recipe = replace(TOY, steps=3, warmup=0, learning_rate=1e-2)
    student, result, measured = train(V, (999,), tmp_path, recipe)
    assert measured["after"]["latents_psnr"] < measured["before"]["latents_psnr"]
    assert measured["kept"] == "before"
    assert_same(result, rounded(student))
    assert_same(networks.load(UNet2DConditionModel, tmp_path / "unet"), result)


@pytest.mark.parametrize("shape", [(512, 9), (64, 5, 3, 3)])
def test_weights_on_the_grid_are_stored_exactly(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(shape, generator=generator)
    weight *= 10 ** torch.linspace(-7, 3, shape[0]).view(-1, *[1] * (len(shape) - 1))
    weight[3] = 0
    result = on_grid(weight)
    again = quantization.dequantise(quantization.quantise({"x.weight": result}), torch.float32)
    assert torch.equal(again["x.weight"], result)
    level = quantization.scales(weight).view(-1, *[1] * (len(shape) - 1))
    assert ((result - weight).abs() <= 0.501 * level).all()
    assert (result[3] == 0).all()


def test_the_gradient_goes_to_the_unrounded_weights_as_if_nothing_were_rounded() -> None:
    task = QuantiseTask(TOY, inputs_of(V, TWO))
    name = "conv_in.weight"
    weight = dict(task.network.named_parameters())[name]
    task._rounding.round()
    used = task._rounding.weights[name]
    assert torch.equal(used, on_grid(weight)) and not torch.equal(used, weight)
    (gradient,) = torch.autograd.grad(
        (used * torch.arange(used.numel()).view_as(used)).sum(), weight
    )
    assert torch.equal(gradient, torch.arange(used.numel()).view_as(used).float())


def test_time_layers_are_not_rounded_since_a_release_has_none() -> None:
    names = [
        name
        for name, value in toys.student(toys.teacher(V)).named_parameters()
        if quantise.is_covered(name, value)
    ]
    assert "conv_in.weight" in names and "conv_out.weight" in names
    assert any(name.endswith("attn2.to_k.weight") for name in names)
    assert not any("time_emb" in name or "norm" in name or name.endswith("bias") for name in names)


@pytest.mark.parametrize(
    "kind, timesteps",
    [CASES[1], *(pytest.param(*case, marks=pytest.mark.slow) for case in (CASES[0], *CASES[2:]))],
)
def test_the_loss_is_the_distance_of_each_pass_on_its_own_path(
    kind: str, timesteps: tuple[int, ...]
) -> None:
    inputs = inputs_of(kind, timesteps)
    teacher, student = inputs.teacher, inputs.student
    task = QuantiseTask(TOY, inputs)
    found = task.step(0, torch.Generator().manual_seed(4))["loss"]
    examples = Examples(teacher, pairs=inputs.pairs, catalogue=inputs.catalogue)
    rows = examples.drawn(TOY.batch, torch.Generator().manual_seed(4))
    expected = []
    for passes in range(1, len(timesteps) + 1):
        ours, theirs = (
            Rollout(teacher, timesteps[:passes]).walk(
                network, examples.noise(rows), examples.embeds(rows)
            )
            for network in (on_grid_alone(student), student)
        )
        expected.append((ours - theirs).square().mean().item())
    assert found == pytest.approx(sum(expected) / len(expected), rel=1e-3)
    assert min(expected) > 0


def on_grid_alone(student: UNet2DConditionModel) -> UNet2DConditionModel:
    """Return the student on the grid, without rounding the rest to fp16, as in training."""
    copied = toys.student(toys.teacher(V))
    copied.load_state_dict(student.state_dict())
    with torch.no_grad():
        for name, parameter in copied.named_parameters():
            if quantise.is_covered(name, parameter):
                parameter.copy_(on_grid(parameter))
    return copied


@pytest.mark.parametrize(
    "name, value",
    [
        ("steps", -1),
        ("batch", 0),
        ("warmup", 46),
        ("warmup", -1),
        ("learning_rate", 0.0),
        ("clipped_norm", float("nan")),
        ("ema_decay", 1.0),
    ],
)
def test_an_invalid_recipe_is_refused_with_its_field(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name} "):
        replace(TOY, **{name: value})
