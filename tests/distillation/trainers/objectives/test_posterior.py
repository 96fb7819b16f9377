"""The Fisher information of the teacher is that of its definition, and an interruption does not change it."""

import copy

import pytest
import torch
from safetensors.torch import load_file

from distillation.trainers.objectives import posterior
from distillation.trainers.objectives.posterior import FILE, PosteriorRecipe, estimate
from distillation.training.errors import CheckpointUnusable
from tests.distillation.trainers.objectives import toys


def estimated(folder, *, kind="v_prediction", size=1, **fields):
    teacher = toys.teacher(kind)
    return estimate(
        PosteriorRecipe(**fields),
        teacher=teacher,
        batches=toys.batches(teacher).only_noised(size),
        examples=50,
        folder=folder,
        progress_bar=False,
    )


@pytest.mark.parametrize("kind", toys.ALIKE)
def test_variances_are_those_of_squared_gradients(tmp_path, kind):
    found = estimated(tmp_path, kind=kind, batches=3, precision=200.0)
    teacher = toys.teacher(kind)
    network = copy.deepcopy(teacher.unet).requires_grad_(True)
    batches = toys.batches(teacher).only_noised(1)
    drawn = [batches.draw(posterior._generator(0, index)) for index in range(3)]

    def squares(batch):
        inputs = batch.latents, batch.timesteps
        output = network(*inputs, encoder_hidden_states=batch.prompt_embeds).sample
        return (output - batch.hard).square()

    variance = sum(squares(batch).mean().item() for batch in drawn) / 3
    assert found.variance == pytest.approx(variance, rel=1e-4)
    assert found.values == 4 * 8 * 8 and found.examples == 50
    name = "mid_block.resnets.0.conv1.weight"
    weight = network.get_parameter(name)
    information = torch.zeros_like(weight)
    for batch in drawn:  # of −log N(target; prediction, τ²)
        likelihood = squares(batch).sum() / (2 * variance)
        information += torch.autograd.grad(likelihood, weight)[0] ** 2 / 3
    expected = (1 / (50 * information + 200.0)).clamp(1e-8, 1e-2)
    assert torch.allclose(found.posterior.variance[name], expected, rtol=1e-3)
    assert torch.equal(found.posterior.mean[name], weight.detach())


def test_an_interruption_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(posterior, "KEPT_EVERY", 2)
    whole = estimated(tmp_path / "whole", size=2, batches=6)
    monkeypatch.setattr(posterior, "_more", _interrupting(posterior._more, at=4))
    with pytest.raises(KeyboardInterrupt):
        estimated(tmp_path / "parts", size=2, batches=6)
    kept = load_file(tmp_path / "parts" / FILE)
    assert kept.keys() == whole.posterior.mean.keys()
    monkeypatch.undo()
    monkeypatch.setattr(posterior, "KEPT_EVERY", 2)
    resumed = estimated(tmp_path / "parts", size=2, batches=6)
    assert resumed.variance == whole.variance
    for name, value in whole.posterior.variance.items():
        assert torch.equal(value, resumed.posterior.variance[name])


def _interrupting(more, *, at):
    def interrupted(sums, indices, *rest):
        if indices.start == at:
            raise KeyboardInterrupt
        return more(sums, indices, *rest)

    return interrupted


def test_a_finished_estimate_is_read_and_not_made_again(tmp_path, monkeypatch):
    first = estimated(tmp_path, batches=1)
    monkeypatch.setattr(posterior, "_more", None)
    again = estimated(tmp_path, batches=1)
    assert again.variance == first.variance


def test_a_file_of_another_recipe_or_none_at_all_is_refused(tmp_path):
    estimated(tmp_path, batches=2)
    for fields in ({"batches": 2, "seed": 1}, {"batches": 1}):
        with pytest.raises(CheckpointUnusable, match="another recipe"):
            estimated(tmp_path, **fields)
    (tmp_path / FILE).write_bytes(b"no tensors")
    with pytest.raises(CheckpointUnusable, match="cannot be read"):
        estimated(tmp_path, batches=2)


@pytest.mark.parametrize(
    ("field", "value"),
    [("batches", 0), ("examples", 0), ("precision", -1.0)],
)
def test_fields_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        PosteriorRecipe(**{field: value})
