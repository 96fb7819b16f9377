"""All layers are compared, by their distributions, whatever the student's shape."""

import pytest
import torch

from distillation.trainers.objectives.mmd import KERNELS, MmdRecipe, nearest
from distillation.trainers.student import make

from . import toys


def prepared(recipe, folder, *, student_recipe=toys.TINY, kind="v_prediction"):
    teacher = toys.teacher(kind, is_even=student_recipe.share < 1)
    student = make(teacher, student_recipe)
    objective = recipe.make(toys.sources(teacher, folder, student=student_recipe), student)
    return objective, toys.batches(teacher).draw(toys.generator()), student, teacher


def test_all_residual_blocks_attentions_and_stages_are_compared(tmp_path):
    objective, _, student, teacher = prepared(MmdRecipe(), tmp_path)
    for network, names in (
        (teacher.unet, objective.teacher_layers),
        (student, objective.student_layers),
    ):
        expected = {
            name
            for name, module in network.named_modules()
            if type(module).__name__ in ("ResnetBlock2D", "Transformer2DModel")
            or type(module).__name__.endswith(("DownBlock2D", "UpBlock2D", "MidBlock2DCrossAttn"))
        }
        assert set(names) == expected
    assert objective.teacher_layers[0] == "down_blocks.0.resnets.0"
    assert objective.teacher_layers[-1] == "up_blocks.2"


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", toys.ALIKE)
def test_the_loss_of_a_copy_of_the_teacher_is_zero(tmp_path, kernel, kind):
    recipe = MmdRecipe(kernel=kernel, nearest=1, guidance_scale=1.0, samples=2)
    objective, batch, student, _ = prepared(recipe, tmp_path, student_recipe=toys.UNCUT, kind=kind)
    found = objective.losses(batch, toys.generator())
    assert found["mmd"].item() == pytest.approx(0, abs=1e-5)
    assert found["guided"].item() == pytest.approx(0, abs=1e-6)
    toys.moved(student, by=0.1)
    assert objective.losses(batch, toys.generator())["mmd"] > 1e-4


@pytest.mark.parametrize("student_recipe", [toys.TINY, toys.NARROW], ids=["tiny", "narrow"])
def test_layers_of_other_shapes_get_a_gradient(tmp_path, student_recipe):
    objective, batch, student, teacher = prepared(
        MmdRecipe(), tmp_path, student_recipe=student_recipe
    )
    found = objective.losses(batch, toys.generator())
    assert set(found) == {"guided", "mmd"}
    found["mmd"].backward()
    assert student.down_blocks[0].resnets[0].conv1.weight.grad.abs().sum() > 0
    assert student.conv_out.weight.grad is None  # its output is of the other term
    assert all(parameter.grad is None for parameter in teacher.unet.parameters())


def test_the_weight_multiplies_the_layers_alone(tmp_path):
    values = []
    for weight in (1.0, 4.0):
        objective, batch, _, _ = prepared(MmdRecipe(mmd_weight=weight), tmp_path)
        values.append(objective.losses(batch, toys.generator()))
    assert values[1]["mmd"].item() == pytest.approx(4 * values[0]["mmd"].item(), rel=1e-5)
    assert values[1]["guided"].item() == pytest.approx(values[0]["guided"].item())


def test_the_nearest_layers_share_the_weight():
    weights = torch.tensor([[0.1, 0.6, 0.3], [0.2, 0.2, 0.6]])
    found = nearest(weights, 2)
    assert torch.allclose(found[0], torch.tensor([0.0, 2 / 3, 1 / 3]))
    assert torch.allclose(found.sum(1), torch.ones(2))
    assert (found > 0).sum() == 4
    assert torch.equal(nearest(weights, 0), weights)
    assert torch.equal(nearest(weights, 5), weights)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("method", "bayes"),
        ("kernel", "cubic"),
        ("mmd_weight", 0.0),
        ("reach", 0.0),
        ("nearest", -1),
        ("samples", 0),
        ("guidance_scale", -1.0),
    ],
)
def test_fields_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        MmdRecipe(**{field: value})
