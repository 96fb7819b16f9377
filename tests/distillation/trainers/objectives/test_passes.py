"""Taps leave nothing behind, and a guided pass is the teacher's own."""

import copy

import torch

from distillation.trainers.objectives import passes
from distillation.trainers.perception import tapped

from . import toys


def test_outputs_are_in_the_order_of_the_pass_and_of_the_chosen_samples():
    teacher = toys.teacher()
    batch = toys.batches(teacher).draw(toys.generator())
    names = ["up_blocks.2", "mid_block", "down_blocks.0", "down_blocks.1.attentions.0"]
    with tapped(teacher.unet, names) as outputs:
        passes.with_text(teacher, batch)
        chosen = torch.tensor([4, 1])
        with tapped(teacher.unet, names, samples=chosen) as some:
            passes.with_text(teacher, batch)
    assert list(outputs) == [
        "down_blocks.0",
        "down_blocks.1.attentions.0",
        "mid_block",
        "up_blocks.2",
    ]
    for name in names:
        assert torch.equal(outputs[name][chosen], some[name])


def test_taps_record_nothing_after_the_block():
    teacher = toys.teacher()
    batch = toys.batches(teacher).draw(toys.generator())
    with tapped(teacher.unet, ["mid_block"]) as outputs:
        passes.with_text(teacher, batch)
    seen = outputs["mid_block"]
    copied = copy.deepcopy(teacher.unet)
    for network in (teacher.unet, copied):
        passes.of_student(network, teacher, batch)
    assert outputs["mid_block"] is seen


def test_two_passes_are_the_guided_teacher():
    teacher = toys.teacher()
    batch = toys.batches(teacher).draw(toys.generator())
    for scale in (1.0, 1.5, 3.0):
        expected = teacher.predict(
            batch.latents, batch.timesteps, batch.prompt_embeds, guidance_scale=scale
        )
        found = passes.guided_by(teacher, batch, guidance_scale=scale)
        assert torch.allclose(found, expected, atol=1e-4)
