"""A student learns its teacher's results for the same noise, resumes exactly, and contradictions are refused."""

import json
from dataclasses import replace

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from distillation.trainers import regression
from distillation.trainers.regression import RegressionRecipe, RegressionTask
from distillation.trainers.rollout import Examples, Rollout
from distillation.training import networks
from tests.distillation.trainers import few_step_toys as toys

RECIPE = RegressionRecipe(
    steps=40,
    batch=6,
    learning_rate=3e-3,
    warmup=3,
    ema_decay=0.8,
    watch_every=20,
    watched=12,
)
TWO = replace(RECIPE, pass_weights=(1.0, 0.5), simulated=0.5)


def task_of(recipe: RegressionRecipe, timesteps=(999,), *, kind="v at zero terminal SNR", **given):
    return RegressionTask(recipe, toys.inputs(timesteps=timesteps, of=toys.teacher(kind), **given))


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "timestep"),
    [("v at zero terminal SNR", 999), ("epsilon as SD 1.5", 625)],
)
def test_the_student_learns_the_teachers_results_for_the_same_noise(tmp_path, kind, timestep):
    teacher = toys.teacher(kind)
    pairs = toys.pairs(toys.teacher())  # untrained, only this one's latents have a reasonable scale
    student = toys.student(teacher)
    passes = Rollout(teacher, (timestep,))
    examples = Examples(teacher, pairs=pairs, catalogue=toys.catalogue())
    before = passes.watch(student, examples, count=12)
    given = {"student": student, "pairs": pairs}
    inputs = toys.inputs(tmp_path, (timestep,), of=teacher, **given)
    trained = regression.train(RECIPE, inputs)
    after = passes.watch(trained, examples, count=12)
    assert after["watched_error"] < 0.7 * before["watched_error"]
    assert lines(tmp_path)[-1]["loss"] < 0.7 * lines(tmp_path)[0]["loss"]


@pytest.mark.slow
def test_an_interrupted_training_ends_with_the_same_weights(tmp_path):
    recipe = replace(TWO, steps=2, warmup=0)
    toys.assert_resumes(lambda: task_of(recipe, (999, 499)), recipe, tmp_path)


# --- several passes -------------------------------------------------------------------------------
def trained_inputs(task: RegressionTask, index: int = 0) -> dict[int, torch.Tensor]:
    """Return the inputs of the trained pass of one step, by timestep; simulated passes have no gradient."""
    found: dict[int, torch.Tensor] = {}

    def keep(_module, args):
        latents, times = args
        if torch.is_grad_enabled():
            found.update({int(t): latents[times == t] for t in times.unique()})

    handle = task.student.register_forward_pre_hook(keep)
    task.step(index, torch.Generator().manual_seed(index))
    handle.remove()
    return found


def rows_of(latents: torch.Tensor, among: torch.Tensor) -> list[int]:
    """Return for each of the latents the row that it is equal to, −1 if there is none."""
    is_equal = (latents[:, None] == among[None].float()).flatten(2).all(2)
    return [int(row.nonzero()[0]) if row.any() else -1 for row in is_equal]


def test_later_passes_train_on_the_teachers_path_and_the_students_own_steps():
    teacher = toys.teacher()
    pairs = toys.pairs(teacher)
    every = torch.arange(len(pairs))
    for simulated, expected in ((0.0, 0), (1.0, 4), (0.5, 2)):
        recipe = replace(TWO, batch=8, simulated=simulated)
        task = task_of(recipe, (999, 499), pairs=pairs)
        student = toys.student(teacher)
        own = Rollout(teacher, (999, 499)).arrive(
            student, pairs.noise(every), toys.catalogue().embeds(pairs.prompts), index=1
        )
        found = trained_inputs(task)
        assert {t: len(latents) for t, latents in found.items()} == {999: 4, 499: 4}
        assert -1 not in rows_of(found[999], pairs.noise(every))
        followed = [row for row in rows_of(found[499], pairs.path[:, 2]) if row >= 0]
        assert len(followed) == 4 - expected
        simulated_ones = found[499][:expected]
        for latents in simulated_ones:
            distances = (own - latents).abs().amax((1, 2, 3))
            assert distances.min() < 1e-4


def test_both_passes_learn_and_the_averaged_student_is_saved_and_frozen(tmp_path):
    recipe = replace(TWO, steps=20, watch_every=10)
    teacher = toys.teacher()
    inputs = toys.inputs(tmp_path, (999, 499), of=teacher)
    trained = regression.train(recipe, inputs)
    first, last = lines(tmp_path)[0], lines(tmp_path)[-1]
    assert last["loss_999"] < first["loss_999"]
    assert last["loss_499"] < first["loss_499"]
    assert last["loss"] == pytest.approx(last["loss_999"] + 0.5 * last["loss_499"], rel=1e-4)
    assert last["watched_error"] < first["watched_error"]
    examples = Examples(teacher, pairs=inputs.pairs, catalogue=inputs.catalogue)
    watched = Rollout(teacher, (999, 499)).watch(trained, examples, count=12)
    assert last["watched_error"] == pytest.approx(watched["watched_error"], rel=1e-4)
    assert not any(p.requires_grad for p in trained.parameters())
    assert toys.same(networks.load(UNet2DConditionModel, tmp_path / "unet"), trained)


def test_the_rate_is_constant_if_its_final_value_is_its_first():
    recipe = replace(RECIPE, final_learning_rate=RECIPE.learning_rate)
    task = task_of(recipe)
    rates = []
    for index in (3, 20, 39):
        task.step(index, torch.Generator().manual_seed(index))
        rates.append(task.optimizers["student"].param_groups[0]["lr"])
    assert rates == [RECIPE.learning_rate] * 3
    falling = task_of(RECIPE)
    falling.step(39, torch.Generator().manual_seed(0))
    assert falling.optimizers["student"].param_groups[0]["lr"] < 0.01 * RECIPE.learning_rate


# --- refusals -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"steps": 0}, "steps"),
        ({"batch": 0}, "batch"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"final_learning_rate": 1.0}, "final_learning_rate"),
        ({"warmup": 41}, "warmup"),
        ({"clipped_norm": 0.0}, "clipped_norm"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"pass_weights": ()}, "pass_weights"),
        ({"pass_weights": (1.0, 0.0), "simulated": 0.5}, "pass_weights"),
        ({"pass_weights": (1.0,) * 7, "simulated": 0.5}, "batch"),
        ({"simulated": 0.5}, "simulated"),
        ({"pass_weights": (1.0, 1.0)}, "simulated"),
        ({"pass_weights": (1.0, 1.0), "simulated": 1.5}, "simulated"),
        ({"watch_every": 0}, "watch_every"),
    ],
)
def test_an_invalid_recipe_is_refused_with_its_field(change, field):
    with pytest.raises(ValueError, match=f"^{field} "):
        replace(RECIPE, **change)
