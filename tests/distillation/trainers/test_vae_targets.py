"""The VAE's pictures of latents, independent of the order of requests."""

from dataclasses import replace

import torch

from distillation.trainers import teacher as teachers
from distillation.trainers import vae_targets
from generation.engine.latents import as_uint8
from tests.distillation.trainers import few_step_toys as toys

torch.set_num_threads(1)


def test_the_targets_are_the_vaes_pictures():
    teacher = toys.teacher()
    latents = toys.pairs(teacher).latents
    found = vae_targets.VaePictures(teacher, latents).of([5, 2, 5])
    for picture, row in zip(found, (5, 2, 5), strict=True):
        alone = as_uint8(teacher.decode(latents[row][None].float()))[0]
        assert (as_uint8(picture).int() - alone.int()).abs().max() <= 1


def test_the_order_of_requests_changes_nothing(monkeypatch):
    monkeypatch.setattr(teachers, "DECODED_PIXELS", 5 * 64 * 64)
    teacher = replace(toys.teacher(), is_bf16=True)  # so that another batch would round otherwise
    latents = toys.pairs(teacher).latents
    forwards, backwards = (vae_targets.VaePictures(teacher, latents) for _ in range(2))
    rows = range(len(latents))
    there = {row: forwards.of([row]) for row in rows}
    back = {row: backwards.of([row]) for row in reversed(rows)}
    assert all(torch.equal(there[row], back[row]) for row in rows)


def test_each_latent_is_decoded_once(monkeypatch):
    monkeypatch.setattr(teachers, "DECODED_PIXELS", 4 * 64 * 64)
    teacher = toys.teacher()
    decoded = []
    pictures = vae_targets.VaePictures(teacher, toys.pairs(teacher).latents)
    monkeypatch.setattr(
        teachers.Teacher,
        "decode",
        lambda self, part: decoded.append(len(part)) or torch.zeros(len(part), 3, 64, 64),
    )
    for rows in ([1, 2], [3, 0], [11, 1]):
        pictures.of(rows)
    assert decoded == [4, 4]
