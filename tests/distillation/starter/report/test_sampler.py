from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distillation.starter.report.sampler import TeacherSampler
from generation.engine.pipeline import TOLERANCE
from generation.engine.request import GenerationRequest
from tests import tiny

TEXTS = ["a red clay vase on a wooden table", "a blue metal mug on a linen cloth"]
SIZE = 64  # of the tiny release


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pack") / "release"
    tiny.make_tiny_release(path)
    return path


def test_pictures_are_made_once_and_cached(pack: Path, tmp_path: Path):
    first = TeacherSampler(pack, tmp_path, steps=2, progress_bar=False)
    made = first.make(TEXTS, [1, 2], guidance_scale=2, title="two")
    assert made.shape == (2, 3, SIZE, SIZE) and made.dtype == torch.uint8
    again = TeacherSampler(pack, tmp_path, steps=2, progress_bar=False)
    # In another order, and with a new picture.
    more = again.make([*reversed(TEXTS), TEXTS[0]], [2, 1, 3], guidance_scale=2, title="three")
    assert torch.equal(more[:2], made.flip(0))
    assert len(list(tmp_path.rglob("*.png"))) == 3
    once_more = TeacherSampler(pack, tmp_path, steps=2, progress_bar=False)
    once_more.make(TEXTS, [1, 2], guidance_scale=2, title="two")
    assert "served" not in vars(once_more)  # no network was loaded


def test_guidance_and_steps_change_the_pictures(pack: Path, tmp_path: Path):
    made = [
        TeacherSampler(pack, tmp_path, steps=steps, progress_bar=False).make(
            TEXTS[:1], [1], guidance_scale=scale, title="one"
        )
        for steps, scale in ((2, 1), (2, 4), (3, 4))
    ]
    assert not torch.equal(made[0], made[1]) and not torch.equal(made[1], made[2])
    assert len(list(tmp_path.rglob("*.png"))) == 3


def test_with_the_settings_of_the_release_the_pictures_equal_the_served_ones(
    pack: Path, tmp_path: Path
):
    sampler = TeacherSampler(pack, tmp_path, steps=3, progress_bar=False)
    served = sampler.served
    served.manifest = replace(served.manifest, timesteps=sampler.timesteps, noise_scheduler="ddim")
    [made] = sampler.make(
        TEXTS[:1], [7], guidance_scale=sampler.manifest.guidance_scale, title="one"
    )
    request = GenerationRequest(sampler._encoder.encode(TEXTS[:1])[0], 7, SIZE, SIZE)
    [expected] = served.generate([request])
    difference = made.permute(1, 2, 0).int() - torch.from_numpy(expected.pixels).int()
    assert difference.abs().max() <= TOLERANCE[served.device.dtype_name]


def test_texts_without_a_seed_are_refused(pack: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="shorter"):
        TeacherSampler(pack, tmp_path, steps=2).make(TEXTS, [1], guidance_scale=1, title="two")
