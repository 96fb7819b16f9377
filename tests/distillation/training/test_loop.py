"""Training continues exactly where it was interrupted, and stops at losses that are not finite."""

import contextlib
import json
import os
import signal
import threading
from itertools import count
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing import event_accumulator
from torch.nn.functional import mse_loss

from distillation.resumable import progress
from distillation.training import checkpoint
from distillation.training.ema import Ema
from distillation.training.loop import TrainingDiverged, cosine, run, set_learning_rate

STEPS = 7


class Denoising:
    """A small convolutional network with dropout, batch statistics, an average and a falling rate."""

    def __init__(self, at_step: dict[int, object] | None = None) -> None:
        torch.manual_seed(0)
        self.network = torch.nn.Sequential(
            torch.nn.Conv2d(2, 4, 3, padding=1),
            torch.nn.BatchNorm2d(4),
            torch.nn.Dropout(0.3),
            torch.nn.Conv2d(4, 2, 3, padding=1),
        ).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-2)
        self.average = Ema(self.network, decay=0.9)
        self.modules = {"network": self.network}
        self.optimizers = {"network": self.optimizer}
        self.emas = {"network": self.average}
        self.at_step = at_step or {}

    def step(self, index: int, generator: torch.Generator) -> dict[str, float]:
        set_learning_rate(self.optimizer, cosine(index, steps=STEPS, peak=1e-2, warmup=2))
        clean = torch.randn(3, 2, 6, 6, generator=generator)
        noisy = clean + torch.randn(clean.shape, generator=generator)
        loss = mse_loss(self.network(noisy), clean)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.average.update()
        happening = self.at_step.get(index)
        if callable(happening):
            happening()
        return {"loss": loss.item() if happening is None or callable(happening) else happening}

    def state(self) -> dict[str, torch.Tensor]:
        averaged = {f"ema.{key}": value for key, value in self.average.module.state_dict().items()}
        return {**self.network.state_dict(), **averaged}


def train(task: Denoising, folder: Path, **changes):
    options = {"steps": STEPS, "seed": 5, "title": "toy", "progress_bar": False, **changes}
    return run(task, folder, **options)


def assert_same(left: Denoising, right: Denoising) -> None:
    for key, value in left.state().items():
        assert torch.equal(value, right.state()[key]), key


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Denoising:
    task = Denoising()
    train(task, tmp_path_factory.mktemp("whole"))
    return task


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", range(STEPS))
def test_a_training_interrupted_after_any_step_ends_with_the_same_weights(
    tmp_path, uninterrupted, at, number
):
    stopping = Denoising({at: lambda: os.kill(os.getpid(), number)})
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit):
        train(stopping, tmp_path)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers

    resumed = Denoising()
    assert train(resumed, tmp_path).step == STEPS
    assert_same(resumed, uninterrupted)
    assert lines(tmp_path)[-1]["step"] == STEPS


def test_a_training_in_slices_ends_with_the_same_weights_and_keeps_the_signal_handlers(
    tmp_path, uninterrupted
):
    """A watcher that allows two steps at a time."""
    calls, sessions = [], 0
    handler = signal.getsignal(signal.SIGTERM)

    def watcher(title: str, done: int, total: int) -> bool:
        assert signal.getsignal(signal.SIGTERM) is handler
        calls.append((title, done, total))
        return done % 2 == 0

    while True:
        sessions += 1
        task = Denoising()
        try:
            with progress.watched(watcher):
                train(task, tmp_path)
            break
        except progress.SliceOver:
            assert lines(tmp_path)[-1]["step"] == 2 * sessions
    assert sessions == 4
    assert calls == [("toy", step, STEPS) for step in range(1, STEPS + 1)]
    assert_same(task, uninterrupted)


class Killed(BaseException):
    """Stands for SIGKILL: nothing is caught, nothing is saved."""


def test_a_training_killed_between_checkpoints_ends_with_the_same_weights(tmp_path, uninterrupted):
    def die():
        raise Killed

    with pytest.raises(Killed):
        train(
            Denoising({5: die}),
            tmp_path,
            log_every=1,
            checkpoint_every_seconds=2.5,
            clock=count().__next__,
        )
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5]
    assert torch.load(tmp_path / checkpoint.FILE)["progress"]["step"] == 3

    resumed = Denoising()
    train(resumed, tmp_path, log_every=1)
    assert_same(resumed, uninterrupted)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]


def test_draws_from_the_global_generator_change_nothing(tmp_path, uninterrupted):
    disturbed = Denoising({3: lambda: torch.rand(17)})
    torch.manual_seed(99)
    expected = torch.rand(3)
    torch.manual_seed(99)
    train(disturbed, tmp_path)
    assert_same(disturbed, uninterrupted)
    assert torch.equal(torch.rand(3), expected)


def test_another_seed_gives_other_weights(tmp_path, uninterrupted):
    other = Denoising()
    train(other, tmp_path, seed=6)
    assert not torch.equal(other.network[0].weight, uninterrupted.network[0].weight)


def test_a_metrics_line_cut_short_by_a_kill_is_written_again(tmp_path):
    with pytest.raises(SystemExit):
        train(Denoising({3: lambda: os.kill(os.getpid(), signal.SIGTERM)}), tmp_path, log_every=2)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 6, "seconds": 0.1, "loss": 1}\n{"step": 8, "seco')
    train(Denoising(), tmp_path, log_every=2)
    assert [line["step"] for line in lines(tmp_path)] == [2, 4, 6, 7]


def test_tensorboard_shows_the_lines_of_metrics_once_after_a_kill_too(tmp_path):
    def die():
        raise Killed

    for task in (Denoising({5: die}), Denoising()):
        with contextlib.suppress(Killed):
            train(
                task,
                tmp_path,
                log_every=1,
                checkpoint_every_seconds=2.5,
                clock=count().__next__,
            )
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    shown = [(event.step, event.value) for event in events.Scalars("loss")]
    assert [step for step, _ in shown] == [1, 2, 3, 4, 5, 6, 7]
    written = [line["loss"] for line in lines(tmp_path)]
    assert [value for _, value in shown] == pytest.approx(written)


def test_metrics_are_the_means_since_the_previous_line(tmp_path):
    train(Denoising({0: 1.0, 1: 3.0, 2: 10.0, 3: 20.0}), tmp_path, log_every=2)
    assert [line["loss"] for line in lines(tmp_path)[:2]] == [2.0, 15.0]


def test_seconds_are_those_of_all_sessions(tmp_path):
    with pytest.raises(SystemExit):
        train(
            Denoising({2: lambda: os.kill(os.getpid(), signal.SIGTERM)}),
            tmp_path,
            clock=count().__next__,
        )
    # The clock ticks once a step: three in the first session, four in the second.
    assert train(Denoising(), tmp_path, clock=count().__next__).seconds == 7


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_training_before_anything_is_saved(tmp_path, value):
    with pytest.raises(TrainingDiverged, match=r"loss 'loss' was (nan|inf) in step 4"):
        train(
            Denoising({3: value}),
            tmp_path,
            log_every=1,
            checkpoint_every_seconds=2.0,
            clock=count().__next__,
        )
    assert torch.load(tmp_path / checkpoint.FILE)["progress"]["step"] == 2
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


def test_a_finished_training_returns_at_once_with_its_weights(tmp_path, uninterrupted):
    train(Denoising(), tmp_path)
    again = Denoising({index: float("nan") for index in range(STEPS)})
    assert train(again, tmp_path).step == STEPS
    assert_same(again, uninterrupted)


def test_more_steps_continue_from_the_end(tmp_path):
    train(Denoising(), tmp_path)
    assert train(Denoising(), tmp_path, steps=STEPS + 2).step == STEPS + 2
    assert lines(tmp_path)[-1]["step"] == STEPS + 2


def test_training_works_outside_the_main_thread(tmp_path, uninterrupted):
    task = Denoising()
    thread = threading.Thread(target=train, args=(task, tmp_path))
    thread.start()
    thread.join()
    assert_same(task, uninterrupted)


def test_a_second_signal_stops_at_once_and_the_checkpoint_stays(tmp_path, uninterrupted):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(
            Denoising({4: twice}),
            tmp_path,
            checkpoint_every_seconds=2.0,
            clock=count().__next__,
        )
    assert torch.load(tmp_path / checkpoint.FILE)["progress"]["step"] == 4
    resumed = Denoising()
    train(resumed, tmp_path)
    assert_same(resumed, uninterrupted)


def test_cosine_rises_in_a_line_and_falls_to_the_floor():
    rates = [cosine(i, steps=12, peak=1.0, warmup=2, floor=0.1) for i in range(13)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[7] == pytest.approx(0.55)
    assert rates[12] == pytest.approx(0.1)
    assert cosine(0, steps=1, peak=2.0, warmup=0) == 2.0


def test_a_training_without_steps_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 1"):
        train(Denoising(), tmp_path, steps=0)


def test_checkpoints_leave_nothing_beside_them(tmp_path):
    train(Denoising(), tmp_path, checkpoint_every_seconds=0)
    assert {path.name for path in tmp_path.iterdir()} == {
        checkpoint.FILE,
        "metrics.jsonl",
        "tensorboard",
    }
