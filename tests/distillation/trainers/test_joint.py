"""A student and its decoder learn together to draw the teacher's pictures, and resume exactly."""

import json
import math
from dataclasses import replace

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from distillation.detector.network import Detector, DetectorConfig
from distillation.trainers import joint
from distillation.trainers.inputs import TuningInputs
from distillation.trainers.joint import JointRecipe, JointTask
from distillation.trainers.labels import Labels, LabelsRecipe
from distillation.training import networks
from distillation.training.errors import RecipeRefused
from tests.distillation.trainers import few_step_toys as toys

torch.set_num_threads(1)

RECIPE = JointRecipe(
    steps=30, batch=4, learning_rate=3e-3, warmup=3, ema_decay=0.8, watch_every=15, watched=6
)


def inputs_of(kind: str = "v at zero terminal SNR", timesteps=(999,), **given) -> TuningInputs:
    pairs = toys.pairs(toys.teacher())  # only this teacher's latents have a reasonable scale
    return toys.inputs(timesteps=timesteps, of=toys.teacher(kind), **{"pairs": pairs, **given})


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("kind", "timesteps"),
    [
        pytest.param("v at zero terminal SNR", (999,), marks=pytest.mark.slow),
        ("v at zero terminal SNR", (999, 499)),
        pytest.param("epsilon as SD 1.5", (625,), marks=pytest.mark.slow),
    ],
)
def test_training_brings_the_pictures_nearer_and_changes_both_networks(tmp_path, kind, timesteps):
    inputs = replace(inputs_of(kind, timesteps), folder=tmp_path)
    before = {
        name: {key: value.clone() for key, value in getattr(inputs, name).state_dict().items()}
        for name in ("student", "decoder")
    }
    student, decoder = joint.train(RECIPE, inputs)
    assert lines(tmp_path)[-1]["pixels"] < 0.8 * lines(tmp_path)[0]["pixels"]
    assert "watched_error" in lines(tmp_path)[-1]
    for name, kind, network, folder in (
        ("student", UNet2DConditionModel, student, "unet"),
        ("decoder", AutoencoderTiny, decoder, "vae"),
    ):
        saved = networks.load(kind, tmp_path / folder).state_dict()
        assert all(torch.equal(saved[key], value) for key, value in network.state_dict().items())
        assert not any(parameter.requires_grad for parameter in network.parameters())
        moved = {
            key.split(".")[0] for key, value in saved.items() if not value.equal(before[name][key])
        }
        assert moved if name == "student" else moved == {"decoder"}


def test_pairs_below_the_least_margin_are_left_out():
    recipe = replace(RECIPE, least_margin=0.5)
    inputs = inputs_of()
    inputs.pairs.margins[::2] = 0.4
    inputs.pairs.latents[::2] = float("nan")
    task = JointTask(recipe, inputs)
    for index in range(4):
        assert math.isfinite(task.step(index, torch.Generator().manual_seed(index))["loss"])
    inputs.pairs.margins[:] = 0.4
    with pytest.raises(RecipeRefused, match=r"joint\.least_margin \(0\.5\)"):
        JointTask(recipe, inputs)


def test_labels_are_a_term_of_the_loss():
    config = DetectorConfig(("a", "b"), (2,), image_size=64, widths=(4, 8), depths=(0, 1))
    torch.manual_seed(3)
    detector = Detector(config).requires_grad_(False).eval()

    def measured(labels: Labels | None) -> dict[str, float]:
        task = JointTask(RECIPE, inputs_of(labels=labels))
        return task.step(0, torch.Generator().manual_seed(0))

    plain, found = measured(None), measured(Labels(LabelsRecipe(weight=10.0), detector))
    assert "labels" not in plain and found["labels"] > 0
    assert found["loss"] == pytest.approx(plain["loss"] + 10 * found["labels"], rel=1e-4)
    assert found["gradient_norm"] != plain["gradient_norm"]


def test_an_interrupted_training_ends_with_the_same_weights(tmp_path):
    recipe = replace(RECIPE, steps=2, warmup=0)
    toys.assert_resumes(lambda: JointTask(recipe, inputs_of()), recipe, tmp_path)


@pytest.mark.slow
def test_a_weight_of_the_latents_keeps_them_nearer():
    def latents_error(weight: float) -> float:
        recipe = replace(RECIPE, latents_weight=weight)
        task = JointTask(recipe, inputs_of())
        for index in range(recipe.steps):
            measured = task.step(index, torch.Generator().manual_seed(index))
        return measured["latents"]

    assert latents_error(10.0) < latents_error(0.0)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"steps": 0}, "steps"),
        ({"batch": 0}, "batch"),
        ({"pictures": 0}, "pictures"),
        ({"scales": 0}, "scales"),
        ({"watched": 0}, "watched"),
        ({"watch_every": 0}, "watch_every"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"clipped_norm": 0.0}, "clipped_norm"),
        ({"huber_c": float("nan")}, "huber_c"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"latents_weight": -0.1}, "latents_weight"),
        ({"detail_weight": -0.1}, "detail_weight"),
        ({"warmup": 31}, "warmup"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"least_margin": 1.0}, "least_margin"),
    ],
)
def test_an_invalid_recipe_is_refused_with_its_field(change, field):
    with pytest.raises(ValueError, match=f"^{field} "):
        replace(RECIPE, **change)
