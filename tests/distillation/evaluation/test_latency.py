from pathlib import Path

import pytest

from distillation.evaluation import latency
from distillation.evaluation.latency import SpeedNotMeasured, SpeedRecipe
from distillation.resumable import progress
from generation.engine import release as releases
from tests.distillation.evaluation import toys


@pytest.mark.slow
def test_a_release_is_measured_in_a_process_of_its_own():
    ballast = bytearray(900_000_000)
    ballast[::4096] = b"x" * len(ballast[::4096])  # resident in this process, not in that
    recipe = SpeedRecipe(calls=3, warm_up=1, batches=(2,), rounds=1, threads=1)
    seen = []
    with progress.watched(lambda *given: bool(seen.append(given))):
        found = latency.measure(toys.teacher_folder(), toys.prompts(2), recipe)
    # A slice without progress counts as hung, and a slow teacher needs hours.
    assert [(done, total) for _, done, total in seen] == [(done, 6) for done in range(1, 7)]
    assert found.calls == 3 and "1 threads" in found.device
    assert set(found.seconds) == set(latency.PARTS)
    for seconds in found.seconds.values():
        assert 0 < seconds.median <= seconds.p95
    total = found.seconds["total"].median
    parts = sum(found.seconds[part].median for part in latency.PARTS[1:])
    assert 0.5 * parts < total
    assert found.seconds["unet"].median > found.seconds["file"].median
    assert found.images_per_second[2] > 0
    memory = found.memory
    assert 50e6 < memory.libraries < memory.loaded <= memory.peak < 1.3e9
    assert memory.settled <= memory.peak and memory.device_peak == 0
    assert len(ballast) == 900_000_000


@pytest.mark.slow
def test_the_error_of_an_unloadable_release_has_the_reason(tmp_path: Path):
    with pytest.raises(SpeedNotMeasured, match=r"release\.json is missing"):
        latency.measure(tmp_path, toys.prompts(1), SpeedRecipe())


def test_bytes_are_counted_by_component():
    manifest = releases.read(toys.teacher_folder())
    found = latency.bytes_by_component(manifest)
    assert sum(found.values()) == sum(file.size_bytes for file in manifest.files)
    assert {"unet", "vae", "text_encoder"} <= set(found)
    assert list(found.values()) == sorted(found.values(), reverse=True)


@pytest.mark.parametrize(
    ("name", "value"), [("calls", 1), ("batches", (0,)), ("output_format", "gif"), ("rounds", 0)]
)
def test_a_recipe_that_measures_nothing_is_refused(name: str, value: object):
    with pytest.raises(ValueError, match=name):
        SpeedRecipe(**{name: value})
