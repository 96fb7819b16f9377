"""Training loop: steps, interruptions, checkpoints and loss curves.

All trainings of the project use it. The caller passes a Task; an interrupted training that is started again in the same
folder ends with the same weights as one that never stopped. Several processes (`accelerate launch`) train one Task
together: each draws its own share of the batch, all stop after the same step, and the main one writes the files.
"""

import hashlib
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Protocol

import torch

from distillation.resumable import atomic
from distillation.resumable.progress import Bar, is_watched
from distillation.training import checkpoint, processes
from distillation.training.errors import TrainingDiverged, TrainingError
from distillation.training.task import Progress, Task

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

__all__ = ["Progress", "Task", "TrainingDiverged", "cosine", "run", "set_learning_rate", "train"]

METRICS = "metrics.jsonl"
EVENTS = "tensorboard"
FIRST_SHEET_SECONDS, SHEET_SECONDS = (
    10.0,
    30.0,
)  # from the start to the first sheet, and least interval
SHEET_SHARE = 0.01  # largest share of the time for sample sheets
Draw = Callable[[Progress], None]


def run(
    task: Task,
    folder: Path,
    *,
    steps: int,
    seed: int,
    title: str,
    checkpoint_every_seconds: float = 120.0,
    log_every: int = 10,
    clock: Callable[[], float] = time.monotonic,
    progress_bar: bool = True,
    draw: Draw | None = None,
) -> Progress:
    """Train until `steps` updates are made, from the checkpoint in `folder` if there is one.

    Writes `metrics.jsonl`: a line for every `log_every` steps and every checkpoint, with the step, the seconds trained
    and the means of the losses since the line before; and the same losses to `tensorboard/`. Ctrl-C and SIGTERM save a
    checkpoint after the running step, then raise KeyboardInterrupt or SystemExit, in all processes; a second one stops
    at once. A watcher (`resumable.progress`) stops it likewise: SliceOver. draw: called in the main process at
    intervals and at the end to show the progress; it must not change the state of the training. Raises
    TrainingDiverged, CheckpointUnusable.
    """
    if steps < 1 or log_every < 1:
        raise ValueError(f"steps ({steps}) and log_every ({log_every}) must be at least 1.")
    folder = Path(folder)
    begun = _begun(folder, task, steps)
    if begun.step >= steps:
        return Progress(begun.step, steps, begun.seconds)

    is_main = processes.is_main()
    started = saved = clock()
    progress = begun
    sheets = _Sheets(draw if is_main else None, clock)
    bar = Bar(steps, title=title, unit="step", done=begun.step, is_shown=progress_bar and is_main)
    # Dropout draws from the global generator, which is seeded in every step and restored at the end.
    with (
        bar,
        _Curve(folder, after=begun.step) as curve,
        signals() as received,
        torch.random.fork_rng(devices=[]),
    ):
        for index in range(begun.step, steps):
            curve.add(_losses_of_step(task, seed, index))
            bar.add()
            step = index + 1
            is_stopped = processes.any_of(bool(received) or bar.is_over)
            now = clock()
            progress = Progress(step, steps, begun.seconds + now - started)
            is_due = step == steps or is_stopped or now - saved >= checkpoint_every_seconds
            if is_main and (is_due or step % log_every == 0):
                bar.say(curve.summary())
                curve.write(progress)
            if is_main and is_due:
                checkpoint.save(folder, task, progress)
                saved = clock()
            sheets.draw(progress)
            if is_stopped:
                break
        # If one process ends, the launcher ends the others, so the checkpoint must be complete first.
        processes.barrier()
        if processes.any_of(bool(received)):
            raise _exception_of(received[0] if received else signal.SIGTERM)
        bar.stop_if_over()
    return progress


class Timed(Protocol):
    """A recipe with a number of steps and a seed."""

    @property
    def steps(self) -> int: ...
    @property
    def seed(self) -> int: ...


def train(
    task: Task,
    recipe: Timed,
    *,
    folder: Path,
    title: str,
    progress_bar: bool,
    draw: Draw | None = None,
) -> Progress:
    """Train by the steps and the seed of the recipe. See `run`."""
    return run(
        task,
        folder,
        steps=recipe.steps,
        seed=recipe.seed,
        title=title,
        progress_bar=progress_bar,
        draw=draw,
    )


def _losses_of_step(task: Task, seed: int, index: int) -> dict[str, float]:
    """Make step `index` of the task; return the losses' means over all processes. Raises TrainingDiverged."""
    draws = _seed_of(seed, index, processes.rank())
    torch.manual_seed(draws)
    losses = processes.mean(task.step(index, torch.Generator().manual_seed(draws)))
    for name, value in losses.items():
        if not math.isfinite(value):
            raise TrainingDiverged(index + 1, name, value)
    return losses


def _begun(folder: Path, task: Task, steps: int) -> Progress:
    """Load the folder's checkpoint and return its progress; afterwards all processes hold the same state."""
    if processes.is_main():
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.settle(folder)
    processes.barrier()
    restored = checkpoint.restore(folder, task)
    if restored is None:
        processes.spread(task.modules.values())
        processes.spread(ema.module for ema in task.emas.values())
    return restored or Progress(0, steps, 0.0)


def cosine(index: int, *, steps: int, peak: float, warmup: int, floor: float = 0.0) -> float:
    """Return the rate of step `index` (from 0): linear to `peak` in `warmup` steps, then half a cosine to `floor`."""
    if index < warmup:
        return peak * (index + 1) / warmup
    done = min(1.0, (index - warmup) / max(1, steps - warmup))
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * done))


class Annealed(Protocol):
    """A recipe whose learning rate rises to `learning_rate` and falls to zero."""

    @property
    def steps(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def warmup(self) -> int: ...


def anneal(optimizer: torch.optim.Optimizer, index: int, recipe: Annealed) -> None:
    """Set the learning rate of step `index` (from 0) by the recipe's cosine schedule."""
    rate = cosine(index, steps=recipe.steps, peak=recipe.learning_rate, warmup=recipe.warmup)
    set_learning_rate(optimizer, rate)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the same rate for all groups of parameters."""
    for group in optimizer.param_groups:
        group["lr"] = value


def _seed_of(seed: int, index: int, rank: int) -> int:
    """Return a seed of 63 bits. It is a hash, because nearby seeds of torch's generator give similar draws."""
    text = f"{seed}:{index}:{rank}" if rank else f"{seed}:{index}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class _Sheets:
    """Draws the sample sheet soon after the start, at the end, and in between as often as its cost allows."""

    def __init__(self, draw: Draw | None, clock: Callable[[], float]) -> None:
        self._draw, self._clock = draw, clock
        self._due = clock() + FIRST_SHEET_SECONDS if draw else 0.0

    def draw(self, progress: Progress) -> None:
        if self._draw is None or (progress.step < progress.steps and self._clock() < self._due):
            return
        began = self._clock()
        self._draw(progress)
        ended = self._clock()
        self._due = ended + max(SHEET_SECONDS, (ended - began) / SHEET_SHARE)


class _Curve:
    """`metrics.jsonl` and the events for TensorBoard, and the sums since their last line. The main process writes."""

    def __init__(self, folder: Path, *, after: int) -> None:
        """Remove lines beyond the step `after`, which will be written again, and a line that a kill truncated."""
        self._path = folder / METRICS
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._events: SummaryWriter | None = None
        if processes.is_main():
            kept = [line for line in _whole_lines(self._path) if line["step"] <= after]
            atomic.write_file(self._path, "".join(json.dumps(line) + "\n" for line in kept))
            self._events = _events(folder / EVENTS, after=after)

    def __enter__(self) -> "_Curve":
        return self

    def __exit__(self, *_: object) -> None:
        if self._events is not None:
            self._events.close()

    def add(self, losses: dict[str, float]) -> None:
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def _means(self) -> dict[str, float]:
        return {name: total / self._counts[name] for name, total in self._sums.items()}

    def summary(self) -> str:
        return ", ".join(f"{name} {value:.4g}" for name, value in self._means().items())

    def write(self, progress: Progress) -> None:
        means = self._means()
        line = {"step": progress.step, "seconds": round(progress.seconds, 3), **means}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self._events is not None:
            for name, value in means.items():
                self._events.add_scalar(name, value, progress.step)
            self._events.flush()
        self._sums.clear()
        self._counts.clear()


def _events(folder: Path, *, after: int) -> "SummaryWriter":
    """Return TensorBoard's writer; readers drop events of an interrupted session beyond the step `after`."""
    try:
        from torch.utils.tensorboard.writer import (
            SummaryWriter,
        )  # takes a second: only for trainings
    except ImportError as error:
        raise TrainingError(
            f"The curves of a training are written for TensorBoard, which is not installed ({error}): "
            "pip install -r requirements.txt."
        ) from error
    return SummaryWriter(str(folder), purge_step=after + 1 if after else None)


def _whole_lines(path: Path) -> Iterator[dict[str, float]]:
    if not path.exists():
        return
    for text in path.read_text("utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            return  # truncated by a kill; nothing valid can follow
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            return
        yield line


@contextmanager
def signals() -> Iterator[list[int]]:
    """Yield a list to which the first SIGINT or SIGTERM is added; a second raises at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread() or is_watched():
        yield received  # only the main thread may install handlers; a watched one has its own
        return

    def note(number: int, _frame: FrameType | None) -> None:
        if received:
            raise _exception_of(number)
        received.append(number)

    previous = {
        number: signal.signal(number, note)
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number)
        is not signal.SIG_IGN  # a background job must not react to Ctrl-C
    }
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _exception_of(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
