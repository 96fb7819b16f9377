"""Previews during generation: selection, content, no effect on the images, tolerated failures."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from generation.engine import pipeline as pipelines
from generation.engine.pipeline import Pipeline, Pixels
from generation.engine.request import GenerationRequest, GenerationResult, Timings
from tests import tiny
from tests.generation.engine import toys


class Recorder:
    """Receiver of previews that requests these rows and records what it gets."""

    def __init__(self, rows: Collection[int]) -> None:
        self.rows = rows
        self.shown: list[tuple[int, int, dict[int, Pixels]]] = []
        self.seconds = 0.0
        self.errors: list[Exception] = []

    def wanted(self, step: int, steps: int) -> Collection[int]:
        return self.rows

    def show(self, step: int, steps: int, pixels: Mapping[int, Pixels], seconds: float) -> None:
        self.shown.append((step, steps, dict(pixels)))
        self.seconds += seconds

    def failed(self, error: Exception) -> None:
        self.errors.append(error)

    @property
    def steps(self) -> list[int]:
        return [step for step, _, _ in self.shown]


@pytest.fixture
def loaded(tiny_release: Path, device: str) -> Pipeline:
    return pipelines.load(tiny_release, device=device)


@pytest.fixture
def three(request_for: Callable[..., GenerationRequest]) -> list[GenerationRequest]:
    return [request_for(number) for number in range(3)]


def pixels(result: GenerationResult) -> np.ndarray:
    assert result.error is None
    assert result.pixels is not None
    return result.pixels.astype(int)


def same(first: list[GenerationResult], second: list[GenerationResult]) -> bool:
    return all(
        np.array_equal(pixels(one), pixels(other)) for one, other in zip(first, second, strict=True)
    )


def test_requested_rows_are_shown_after_each_step_except_the_last(
    loaded: Pipeline, three: list[GenerationRequest]
) -> None:
    recorder = Recorder([2, 0, 99])
    loaded.generate(three, previews=recorder)
    assert [(step, steps) for step, steps, _ in recorder.shown] == [(1, 4), (2, 4), (3, 4)]
    for _, _, shown in recorder.shown:
        assert set(shown) == {0, 2}
        assert all(
            image.shape == (64, 64, 3) and image.dtype == np.uint8 for image in shown.values()
        )


def test_a_preview_equals_the_image_without_the_remaining_steps(
    tmp_path: Path, device: str, three: list[GenerationRequest]
) -> None:
    """From the first timestep straight to the end: a release of one step does just that."""
    tiny.make_tiny_release(tmp_path / "four", timesteps=[999, 749, 499, 249])
    tiny.make_tiny_release(tmp_path / "one", timesteps=[999])
    four, one = (pipelines.load(tmp_path / name, device=device) for name in ("four", "one"))
    # Its noise scheduler ends a little before no noise at all, as that of Stable Diffusion.
    for release in (four, one):
        release._scheduler_config["set_alpha_to_one"] = True
    recorder = Recorder([0])
    four.generate(three[:1], previews=recorder)
    expected = pixels(one.generate(three[:1])[0])
    assert np.abs(recorder.shown[0][2][0].astype(int) - expected).max() <= 2
    assert np.abs(recorder.shown[2][2][0].astype(int) - expected).max() > 8


def test_a_folded_student_shows_previews_through_its_tiny_decoder(
    tmp_path: Path, tiny_release: Path, embeddings: Any, device: str, three: list[GenerationRequest]
) -> None:
    toys.write_student(tmp_path / "student", tiny_release, embeddings)
    student = pipelines.load(tmp_path / "student", device=device)
    assert type(student.runtime.vae).__name__ == "AutoencoderTiny"
    recorder = Recorder([1])
    assert same(student.generate(three), student.generate(three, previews=recorder))
    assert recorder.steps == [1]


def test_a_release_of_one_step_shows_nothing(
    tmp_path: Path, device: str, three: list[GenerationRequest]
) -> None:
    tiny.make_tiny_release(tmp_path / "one", timesteps=[999])
    recorder = Recorder([0, 1, 2])
    pipelines.load(tmp_path / "one", device=device).generate(three, previews=recorder)
    assert recorder.shown == []


def test_a_dropped_row_is_no_longer_shown(loaded: Pipeline, three: list[GenerationRequest]) -> None:
    recorder = Recorder([0, 1])
    loaded.generate(three, on_step=lambda step, _: [1] if step == 2 else [], previews=recorder)
    assert [sorted(shown) for _, _, shown in recorder.shown] == [[0, 1], [0], [0]]


def test_images_are_made_even_without_memory_for_previews(
    loaded: Pipeline, three: list[GenerationRequest]
) -> None:
    expected = loaded.generate(three)
    steps = 0

    def hook(_: Any, args: tuple) -> None:
        if steps < 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def on_step(step: int, _: int) -> tuple[int, ...]:
        nonlocal steps
        steps = step
        return ()

    loaded.runtime.vae.decoder.register_forward_pre_hook(hook)
    recorder, timings = Recorder([0]), Timings()
    results = loaded.generate(three, on_step=on_step, previews=recorder, timings=timings)
    assert same(expected, results)
    assert (recorder.shown, len(recorder.errors), timings.batches) == ([], 1, [3])


def test_a_preview_that_is_not_finite_is_not_shown(
    loaded: Pipeline, three: list[GenerationRequest]
) -> None:
    loaded.runtime.unet.conv_out.bias.fill_(float("nan"))
    recorder = Recorder([0])
    loaded.generate(three[:1], previews=recorder)
    assert [shown for _, _, shown in recorder.shown] == [{}, {}, {}]


def test_the_time_of_previews_is_measured_separately(
    loaded: Pipeline, three: list[GenerationRequest]
) -> None:
    import time

    loaded.runtime.vae.decoder.register_forward_pre_hook(lambda *_: time.sleep(0.2))
    recorder, timings = Recorder([0]), Timings()
    loaded.generate(three, previews=recorder, timings=timings)
    assert 0.6 <= timings.preview_seconds < 5
    assert recorder.seconds == pytest.approx(timings.preview_seconds)
    assert timings.unet_seconds < 0.6
