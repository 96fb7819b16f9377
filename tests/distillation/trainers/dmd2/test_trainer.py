"""The critics follow the student, the student approaches the teacher, and every term begins as the recipe says."""

import json
from dataclasses import replace

import pytest
import torch

from distillation.trainers.dmd2 import trainer
from distillation.trainers.dmd2.discriminator import AdversarialRecipe
from distillation.trainers.dmd2.recipe import MatchingRecipe
from distillation.trainers.dmd2.trainer import MatchingTask
from distillation.training.errors import RecipeRefused
from tests.distillation.trainers import few_step_toys as toys

KINDS = [("v at zero terminal SNR", 999), ("epsilon as SD 1.5", 625)]
ALSO = pytest.param(*KINDS[1], marks=pytest.mark.slow)
ADVERSARIAL = AdversarialRecipe(
    learn_after=1, gan_after=2, width=8, layers=("down_blocks.1", "mid_block")
)
RECIPE = MatchingRecipe(
    steps=5,
    batch=4,
    critic_batch=4,
    critic_updates=1,
    student_after=0,
    paired=2,
    warmup=0,
    learning_rate=1e-4,
    adversarial=ADVERSARIAL,
    watch_every=3,
    watched=6,
)
ALONE = {"adversarial": None}  # without heads
UNPAIRED = {"paired": 0, "regression_weight": 0.0, "final_regression_weight": 0.0}
FROZEN = {"learning_rate": 1e-12, "final_learning_rate": 1e-12}


def task_of(recipe: MatchingRecipe, timesteps=(999,), *, kind="v at zero terminal SNR", **given):
    teacher = given.pop("teacher", None) or toys.teacher(kind)
    return MatchingTask(recipe, toys.inputs(timesteps=timesteps, of=teacher, **given))


def steps(task, indexes) -> list[dict[str, float]]:
    return [task.step(index, torch.Generator().manual_seed(index)) for index in indexes]


def weights(task) -> dict[str, torch.Tensor]:
    found = {f"ema.{key}": value for key, value in task.averaged.state_dict().items()}
    for name, module in task.modules.items():
        found |= {f"{name}.{key}": value.clone() for key, value in module.state_dict().items()}
    return found


def fake_losses(task, count: int) -> tuple[float, float]:
    """Return the fake score's losses at the first step and after `count` steps, of the same noised images."""
    first = steps(task, [0])[0]["fake_score"]
    steps(task, range(1, count))
    return first, steps(task, [0])[0]["fake_score"]


def same(left, right, name: str) -> bool:
    """Whether two tasks, or sets of weights, have the same weights of a network."""
    left, right = (part if isinstance(part, dict) else weights(part) for part in (left, right))
    keys = [key for key in left if key.startswith(f"{name}.")]
    assert keys
    return all(left[key].equal(right[key]) for key in keys)


# --- networks of Gaussians with a known solution --------------------------------------------------
MEAN, DEVIATION = [0.8, -0.5, 0.0, 0.3], [0.6, 0.9, 1.2, 0.4]  # the teacher's, per channel


def gaussian_task(recipe: MatchingRecipe, kind: str, timestep: int) -> MatchingTask:
    teacher = toys.teacher(kind, guidance_scale=1.0)
    pairs = toys.pairs(teacher)
    score = toys.GaussianScore(teacher.schedule, MEAN, DEVIATION).requires_grad_(False)
    return task_of(
        recipe,
        (timestep,),
        teacher=replace(teacher, unet=score),
        student=toys.GaussianStudent(teacher.schedule, [0.0] * 4, [1.0, 0.5, 0.8, 1.0]),
        pairs=pairs,
    )


GAUSSIAN = replace(
    RECIPE,
    **ALONE,
    **UNPAIRED,
    steps=220,
    batch=16,
    critic_batch=32,
    critic_updates=3,
    learning_rate=0.02,
    final_learning_rate=0.001,
    fake_learning_rate=0.03,
    weight_decay=0.0,
    betas=(0.5, 0.9),
    clipped_norm=10.0,
    watch_every=1000,
)


@pytest.mark.parametrize(("kind", "timestep"), [KINDS[0], ALSO])
@pytest.mark.slow
def test_the_student_ends_with_the_teachers_distribution(kind, timestep):
    task = gaussian_task(GAUSSIAN, kind, timestep)
    steps(task, range(GAUSSIAN.steps))
    for network in (task.averaged, task.fake):
        assert network.mean.flatten().tolist() == pytest.approx(MEAN, abs=0.12)
        assert network.deviation.flatten().tolist() == pytest.approx(DEVIATION, abs=0.12)


@pytest.mark.parametrize(("kind", "timestep"), KINDS)
@pytest.mark.slow
def test_the_fake_score_learns_the_distribution_of_a_frozen_student(kind, timestep):
    task = gaussian_task(replace(GAUSSIAN, **FROZEN), kind, timestep)
    before, after = fake_losses(task, 60)
    assert task.student.mean.abs().max() < 1e-6
    assert task.fake.mean.flatten().tolist() == pytest.approx([0.0] * 4, abs=0.1)
    assert task.fake.deviation.flatten().tolist() == pytest.approx([1.0, 0.5, 0.8, 1.0], abs=0.1)
    assert after < 0.95 * before
    assert task._teacher.unet.mean.flatten().tolist() == pytest.approx(
        MEAN
    )  # the teacher is unchanged


# --- the critics of real networks -----------------------------------------------------------------
@pytest.mark.parametrize(("kind", "timestep"), [KINDS[0], ALSO])
@pytest.mark.slow
def test_the_fake_scores_loss_falls(kind, timestep):
    recipe = replace(RECIPE, **ALONE, **FROZEN, steps=12, critic_updates=3, fake_learning_rate=2e-3)
    task = task_of(recipe, (timestep,), kind=kind)
    before, after = fake_losses(task, 12)
    assert after < 0.9 * before


@pytest.mark.slow
def test_the_heads_learn_to_separate_the_student_from_the_teacher():
    teacher = toys.teacher()
    pairs = toys.pairs(teacher)
    pairs.latents[:, 0, :4, :4] += 4  # no image of the student has it
    eager = AdversarialRecipe(
        learn_after=0, layers=("down_blocks.0",), width=16, learning_rate=1e-2, r1_weight=0.0
    )
    recipe = replace(RECIPE, critic_batch=12, adversarial=eager)
    task = task_of(recipe, teacher=teacher, student=toys.student(teacher), pairs=pairs)
    found = [
        task._update_critics(0, torch.Generator().manual_seed(seed), with_heads=True)
        for seed in (*range(40), 0)
    ]
    # Only a little: at most timesteps the noise hides the difference.
    assert found[-1]["heads"] < 0.95 * found[0]["heads"]
    assert found[-1]["heads_margin"] > 0.1 > abs(found[0]["heads_margin"])


def test_the_critics_are_updated_as_often_as_the_recipe_says():
    task = task_of(replace(RECIPE, critic_updates=3))
    steps(task, range(2))
    updates = {
        name: max(int(state["step"]) for state in optimizer.state.values())
        for name, optimizer in task.optimizers.items()
    }
    assert updates == {"student": 2, "fake": 6, "heads": 1}  # the heads begin after one step
    assert set(task.emas) == {"student"}


# --- begin of each term ---------------------------------------------------------------------------
def test_the_fake_score_learns_alone_before_the_student_moves():
    task = task_of(replace(RECIPE, **ALONE, student_after=2))
    before = weights(task)
    found = steps(task, range(2))
    assert same(task, before, "student")
    assert same(task, before, "ema")
    assert not same(task, before, "fake")
    assert all("fake_score" in losses and "matching" not in losses for losses in found)
    assert "matching" in steps(task, [2])[0]
    assert not same(task, before, "student")


def test_heads_change_nothing_before_they_learn():
    late = replace(RECIPE, adversarial=replace(ADVERSARIAL, learn_after=2, gan_after=3))
    task, alone = task_of(late), task_of(replace(RECIPE, **ALONE))
    before = weights(task)
    found, of_alone = steps(task, range(2)), steps(alone, range(2))
    assert found == of_alone
    assert same(task, alone, "student")
    assert same(task, before, "heads")
    assert not any("gan" in losses or "heads" in losses for losses in found)


def test_heads_learn_before_they_affect_the_student():
    task = task_of(replace(RECIPE, adversarial=replace(ADVERSARIAL, learn_after=0, gan_after=2)))
    strong = replace(ADVERSARIAL, learn_after=0, gan_after=2, gan_weight=10.0)
    other = task_of(replace(RECIPE, adversarial=strong))
    before = weights(task)
    found = steps(task, range(2))
    steps(other, range(2))
    assert all("heads" in losses and "gan" not in losses for losses in found)
    assert not same(task, before, "heads")
    assert same(task, other, "student")  # whatever its weight, the term is not there yet
    assert "gan" in steps(task, [2])[0]
    steps(other, [2])
    assert not same(task, other, "student")


def test_the_heads_weigh_the_samples_once_they_affect_the_student():
    # Samples are weighed against those of the same tenth of the time, so there must be some.
    many = replace(RECIPE, batch=24, critic_updates=1)
    task, plain = task_of(many), task_of(many)
    steps(task, range(2))
    steps(plain, range(2))
    for parameter in plain._heads.parameters():
        parameter.data.zero_()  # all ratios are then 1
    found, of_plain = (
        one._update_student(2, torch.Generator().manual_seed(2)) for one in (task, plain)
    )
    assert found["latents_std"] == of_plain["latents_std"]
    assert found["matching"] != of_plain["matching"]


def test_the_student_does_not_train_the_heads():
    task = task_of(replace(RECIPE, adversarial=replace(ADVERSARIAL, learn_after=0, gan_after=0)))
    after: list[dict[str, torch.Tensor]] = []
    updated = task._update_critics

    def keep(index, generator, *, with_heads):
        losses = updated(index, generator, with_heads=with_heads)
        after.append(weights(task))
        return losses

    task._update_critics = keep
    steps(task, [0])
    assert same(task, after[-1], "heads")
    assert same(task, after[-1], "fake")
    assert not same(task, after[-1], "student")


def test_the_weight_of_the_regression_falls_as_the_recipe_says_and_needs_pairs():
    recipe = replace(RECIPE, **ALONE, steps=100)
    task = task_of(recipe)
    assert task._regression_weight(0) == pytest.approx(0.25)
    assert task._regression_weight(50) == pytest.approx(0.15)
    assert task._regression_weight(100) == pytest.approx(0.05)
    free = task_of(replace(RECIPE, **ALONE, **UNPAIRED))
    assert "regression" in steps(task, [0])[0]
    assert "regression" not in steps(free, [0])[0]


# --- guidance, passes, fake scores ----------------------------------------------------------------
def test_the_guidance_is_the_teachers_own_unless_the_recipe_has_another():
    own, same_scale, none = (
        steps(task_of(replace(RECIPE, **ALONE, guidance_scale=scale)), range(2))
        for scale in (None, 1.5, 1.0)
    )
    assert own == same_scale
    assert own[0]["matching"] != none[0]["matching"]


def test_the_guided_teacher_is_the_same_with_and_without_the_heads_pass():
    task = task_of(RECIPE)
    noised = torch.randn(4, *task._teacher.latent_shape)
    times, embeds = torch.tensor([20, 300, 700, 980]), task._examples.embeds(torch.arange(4))
    no_logits, alone = task._judged(noised, times, embeds, None)
    logits, shared = task._judged(noised.requires_grad_(), times, embeds, ADVERSARIAL)
    assert no_logits is None
    torch.testing.assert_close(shared, alone)
    assert not shared.requires_grad
    assert logits.requires_grad


def test_a_student_of_two_passes_is_matched_in_both():
    task = task_of(RECIPE, (999, 499))
    seen = []

    def keep(_module, args):
        if torch.is_grad_enabled():  # the pass that is trained, not those that lead to it
            seen.append(args[1].tolist())

    task.student.register_forward_pre_hook(keep)
    noise, embeds = (
        torch.randn(2, *task._teacher.latent_shape),
        task._examples.embeds(torch.arange(2)),
    )
    for seed in range(12):
        x = task._rollout.one_pass(task.student, noise, embeds, torch.Generator().manual_seed(seed))
        assert x.requires_grad
    first, second = seen.count([999, 999]), seen.count([499, 499])
    assert min(first, second) > 0
    assert first + second == 12
    assert torch.isfinite(torch.tensor(list(steps(task, [0])[0].values()))).all()


def test_the_fake_score_may_start_from_the_student_of_the_structure_stage():
    teacher = toys.teacher()
    structure = toys.student(teacher)
    with torch.no_grad():
        structure.conv_in.weight.add_(0.1)
    task = task_of(replace(RECIPE, fake_score="student"), teacher=teacher, structure=structure)
    assert task.fake.conv_in.weight.equal(structure.conv_in.weight)
    steps(task, [0])
    assert not task.fake.conv_in.weight.equal(structure.conv_in.weight)
    of_teacher = task_of(RECIPE, teacher=teacher)
    assert of_teacher.fake.conv_in.weight.equal(teacher.unet.conv_in.weight)
    assert not any(p.requires_grad for p in teacher.unet.parameters())


# --- a run ----------------------------------------------------------------------------------------
@pytest.mark.slow
def test_an_interrupted_training_ends_with_the_same_weights(tmp_path):
    adversarial = replace(ADVERSARIAL, learn_after=0, gan_after=1)
    recipe = replace(RECIPE, steps=2, adversarial=adversarial)
    toys.assert_resumes(lambda: task_of(recipe), recipe, tmp_path)


def test_a_training_logs_statistics_of_the_latents_and_saves_the_average(tmp_path):
    teacher = toys.teacher()
    trained = trainer.train(RECIPE, toys.inputs(tmp_path, of=teacher))
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert {
        "matching",
        "regression",
        "gan",
        "fake_score",
        "heads",
        "heads_r1",
        "heads_margin",
        "latents_std",
        "latents_mean",
        "student_gradient_norm",
        "fake_gradient_norm",
        "heads_gradient_norm",
        "watched_error",
        "watched_std_ratio",
        "watched_diversity",
    } <= set(line)
    assert not any(p.requires_grad for p in trained.parameters())
    assert (tmp_path / "unet" / "config.json").exists()


# --- refusals -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"steps": 0}, "steps"),
        ({"critic_updates": 0}, "critic_updates"),
        ({"student_after": 5}, "student_after"),
        ({"student_after": 3, "warmup": 3}, "warmup"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"final_learning_rate": 1.0}, "final_learning_rate"),
        ({"fake_learning_rate": -1.0}, "fake_learning_rate"),
        ({"final_regression_weight": 0.5}, "final_regression_weight"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"warmup": 6}, "warmup"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"paired": 5}, "paired"),
        ({"paired": 0}, "paired"),
        ({"regression_weight": 0.0, "final_regression_weight": 0.0}, "paired"),
        ({"fake_score": "ema"}, "fake_score"),
        ({"guidance_scale": 0.5}, "guidance_scale"),
    ],
)
def test_an_invalid_recipe_is_refused_with_its_field(change, field):
    with pytest.raises(ValueError, match=f"^{field} "):
        replace(RECIPE, **change)


def test_a_recipe_that_contradicts_the_teacher_is_refused():
    with pytest.raises(RecipeRefused, match="fake_score"):
        task_of(replace(RECIPE, fake_score="student"))
    with pytest.raises(RecipeRefused, match="fake_score"):
        task_of(RECIPE, structure=toys.student(toys.teacher()))
    unguided = toys.teacher(guidance_scale=1.0)
    with pytest.raises(RecipeRefused, match="guidance_scale"):
        task_of(replace(RECIPE, guidance_scale=2.0), teacher=unguided)
    with pytest.raises(RecipeRefused, match="layers"):
        lacking = replace(ADVERSARIAL, layers=("down_blocks.5",))
        task_of(replace(RECIPE, adversarial=lacking))
