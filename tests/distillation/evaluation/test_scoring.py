from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional

from distillation.detector import network as detectors
from distillation.evaluation import clip as clips
from distillation.evaluation import noninferiority, scoring
from distillation.evaluation.noninferiority import Margins
from distillation.evaluation.pictures import Album
from distillation.evaluation.scoring import Judges
from generation.engine import release as releases
from tests.distillation.evaluation import toys
from tests.distillation.starter import toys as starter

SEEDS = 4


@pytest.fixture(scope="module")
def judges() -> Judges:
    return Judges(
        detectors.load(toys.detector_folder()),
        clips.load(starter.clip_folder(), tokenizer=starter.tokenizer_folder()),
    )


def album(folder: Path, draw: Callable[[int, int], torch.Tensor], *, prompts: int) -> Album:
    """Write an album. draw: prompt, seed → coarse values [3, 4, 4] from 0 to 1."""
    folder.mkdir()
    rows = []
    for prompt in range(prompts):
        paths = tuple(folder / f"{prompt}-{seed}.png" for seed in range(SEEDS))
        for seed, path in enumerate(paths):
            values = functional.interpolate(draw(prompt, seed)[None], (64, 64), mode="bilinear")[0]
            pixels = (255 * values).to(torch.uint8).permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(path)
        rows.append(paths)
    return Album(releases.read(toys.teacher_folder()), tuple(rows))


def noise(prompt: int, seed: int) -> torch.Tensor:
    return torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(100 * prompt + seed))


def test_a_release_has_no_distance_from_itself(judges: Judges, tmp_path: Path):
    same = album(tmp_path / "a", noise, prompts=2)
    found = scoring.judge(same, same, toys.prompts(2), judges, progress_bar=False)
    assert found.distance.shape == (2, SEEDS) and float(found.distance.abs().max()) == 0
    assert (found.psnr == scoring.EQUAL_DB).all() and torch.allclose(found.ssim, torch.ones(2, 4))
    assert torch.equal(found.student.spread, found.teacher.spread)
    assert found.right is not None and torch.equal(*found.right)
    assert found.clip_score is not None and torch.equal(*found.clip_score)


def test_each_picture_is_judged_as_it_would_be_alone(judges: Judges, tmp_path: Path):
    first = album(tmp_path / "a", noise, prompts=2)
    second = album(tmp_path / "b", lambda p, s: noise(p + 50, s), prompts=2)
    prompts = toys.prompts(2)
    found = scoring.judge(first, second, prompts, judges, progress_bar=False)
    assert judges.clip and judges.detector
    for release, made in ((found.student, first), (found.teacher, second)):
        images = made.read(1)
        features = judges.clip.image_features(images)
        assert release.features is not None and release.clip_score is not None
        assert torch.allclose(release.features[1], features, atol=1e-5)
        scores = 100 * features @ judges.clip.text_features(prompts.texts)[1]
        assert torch.allclose(release.clip_score[1], scores, atol=1e-3)
        parts = judges.detector.probabilities(images).split(toys.GROUPS, dim=1)
        wanted = prompts.wanted[1].split(toys.GROUPS)
        right = [p.argmax(1) == int(w.int().argmax()) for p, w in zip(parts, wanted, strict=True)]
        assert torch.equal(release.groups_right[1], torch.stack(right, dim=1))


def test_collapsed_diversity_is_detected(judges: Judges, tmp_path: Path):
    prompts = 24
    teacher = album(tmp_path / "a", noise, prompts=prompts)

    def nearly_one(prompt: int, seed: int) -> torch.Tensor:
        return 0.7 * noise(prompt, 0) + 0.3 * noise(prompt, seed)

    collapsed = album(tmp_path / "b", nearly_one, prompts=prompts)
    alike = album(tmp_path / "c", lambda p, s: noise(p + 50, s), prompts=prompts)
    outcomes = []
    for student in (collapsed, alike):
        found = scoring.judge(
            student, teacher, toys.prompts(prompts), Judges(judges.detector), progress_bar=False
        )
        margins = Margins(None, 0.8, None, None, None)
        spread = found.student.spread, found.teacher.spread
        outcomes += [v.outcome for v in noninferiority.judge(margins, spread=spread)]
    assert outcomes == [noninferiority.INFERIOR, noninferiority.NON_INFERIOR]


def test_prompts_that_state_nothing_have_no_verdict(judges: Judges, tmp_path: Path):
    prompts = toys.prompts(2)
    stated, wanted = prompts.stated.clone(), prompts.wanted.clone()
    stated[0], wanted[0] = False, False
    made = album(tmp_path / "a", noise, prompts=2)
    found = scoring.judge(
        made, made, replace(prompts, stated=stated, wanted=wanted), judges, progress_bar=False
    )
    assert found.right is not None
    assert found.right[0][0].isnan().all() and found.right[0][1].isfinite().all()


def test_without_a_detector_the_clip_compares_pictures(judges: Judges, tmp_path: Path):
    first = album(tmp_path / "a", noise, prompts=2)
    second = album(tmp_path / "b", lambda p, s: noise(p + 50, s), prompts=2)
    found = scoring.judge(
        first, second, toys.prompts(2), Judges(clip=judges.clip), progress_bar=False
    )
    assert found.right is None and (found.distance > 0).all() and (found.student.spread > 0).all()
    with pytest.raises(ValueError, match="Give a detector"):
        Judges()


def test_bits_of_another_detector_are_refused(judges: Judges, tmp_path: Path):
    made = album(tmp_path / "a", noise, prompts=2)
    few = torch.zeros(2, 5, dtype=torch.bool)
    prompts = replace(toys.prompts(2), wanted=few, stated=few)
    with pytest.raises(ValueError, match="the detector has 23"):
        scoring.judge(made, made, prompts, judges, progress_bar=False)
