"""Photographs show their combination, depend only on combination and seed, and are rendered once."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from distillation.starter import photographs, rendering, scenes
from distillation.starter.rendering import Shot, shots
from distillation.starter.words import HELD_OUT, TRAINED, Combination

SMALL = scenes.Recipe(size=48, samples=2, path_depth=4)
RECIPE = rendering.Recipe(train=2, validation=0, test=1, test_held_out=0, photograph=SMALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    rendering.build(folder, RECIPE, progress_bar=False)
    return folder


def test_a_photograph_has_its_colour_inside_the_mask_of_the_object() -> None:
    for colour, channel in (("red", 0), ("green", 1), ("blue", 2)):
        shot = Shot(Combination("ball", colour, "clay", "slab"), seed=5)
        image, mask = rendering.render(shot, SMALL)
        assert image.shape == (48, 48, 3)
        assert 0.1 < mask.mean() < 0.6
        inside, outside = image[mask == 1].mean(axis=0), image[mask == 0].mean(axis=0)
        assert inside.argmax() == channel
        assert np.ptp(inside) > 60 > np.ptp(outside)


def test_the_same_seed_gives_the_same_photograph_and_another_seed_another() -> None:
    combination = Combination("mug", "purple", "plastic", "cloth")
    first, other, *more = (
        rendering.render(Shot(combination, seed), SMALL)[0] for seed in (1, 2, 1, 1, 1, 1)
    )
    assert all(np.array_equal(first, again) for again in more)
    assert not np.array_equal(first, other)


def test_the_ring_has_a_hole_and_the_mug_a_handle() -> None:
    _, ring = rendering.render(Shot(Combination("ring", "red", "clay", "table"), 3), SMALL)
    rows = ring.any(axis=1).nonzero()[0]
    columns = ring.any(axis=0).nonzero()[0]
    assert ring[(rows[0] + rows[-1]) // 2, (columns[0] + columns[-1]) // 2] == 0
    _, mug = rendering.render(Shot(Combination("mug", "red", "clay", "table"), 3), SMALL)
    left, right = (int(half.sum()) for half in np.array_split(mug, 2, axis=1))
    assert left != right


def test_the_splits_share_no_seed_and_only_the_held_out_one_shows_held_out_combinations() -> None:
    recipe = rendering.Recipe()
    splits = {name: shots(name, size) for name, size in recipe.sizes().items()}
    seeds = [shot.seed for every in splits.values() for shot in every]
    assert len(seeds) == len(set(seeds))
    assert len(splits["train"]) >= 3000
    assert min(len(splits[name]) for name in ("validation", "test", "test-held-out")) >= 256
    assert {shot.combination for shot in splits.pop("test-held-out")} == HELD_OUT
    assert all(shot.combination not in HELD_OUT for every in splits.values() for shot in every)


def test_every_combination_is_photographed_equally_often() -> None:
    counts = Counter(shot.combination for shot in shots("train", rendering.Recipe().train))
    assert set(counts) == set(TRAINED)
    assert len(set(counts.values())) == 1


@pytest.mark.slow
def test_rendered_photographs_are_read_back(folder: Path) -> None:
    found = photographs.read(folder, "train")
    assert len(found) == 2
    assert found.images.shape == (2, 3, 48, 48)
    assert found.combinations == tuple(shot.combination for shot in shots("train", 2))
    assert found.bits.sum(dim=1).tolist() == [4, 4]
    image, mask = rendering.render(shots("train", 2)[1], SMALL)
    assert np.array_equal(found.images[1].numpy(), image.transpose(2, 0, 1))
    assert np.array_equal(found.masks[1].numpy(), mask)


@pytest.mark.slow
def test_only_missing_shards_are_rendered(folder: Path) -> None:
    kept = folder / "train-0000.safetensors"
    written = kept.stat().st_mtime_ns
    lost = folder / "test-0000.safetensors"
    content = load_file(lost)
    lost.unlink()
    rendering.build(folder, RECIPE, progress_bar=False)
    assert kept.stat().st_mtime_ns == written
    again = load_file(lost)
    assert all(np.array_equal(again[name], content[name]) for name in ("images", "masks"))
    with safe_open(lost, framework="np") as shard:
        assert json.loads(shard.metadata()["recipe"])["size"] == 48


def test_errors_of_a_damaged_shard_and_a_missing_split_name_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "train-0000.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="Delete it"):
        photographs.read(tmp_path, "train")
    with pytest.raises(FileNotFoundError, match="make starter"):
        photographs.read(tmp_path, "validation")
