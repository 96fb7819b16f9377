"""Building of stages: keys by their inputs, resuming, locks and times.

A stage's folder is named by a hash of all its inputs, so a changed recipe makes new folders for the stage and for all
that depend on it, and reuses the others. `done.json`, written last, marks a folder as finished.
"""

import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

from distillation.resumable import atomic

DONE = "done.json"
SECONDS = "seconds.json"
LOCK = "build.lock"
KEEP_TIME_EVERY_SECONDS = 10.0  # the most of a stage's recorded time that a kill loses


class StageError(Exception):
    """A stage cannot be built."""


class StagesInvalid(StageError):
    """The table of stages contradicts itself, or lacks a requested stage."""


class StageBusy(StageError):
    """Another process is building the stage."""


class StageDamaged(StageError):
    """A file in a stage's folder cannot be read."""


@dataclass(frozen=True)
class Context:
    """Argument of a stage's `build`. folder: its own, with results of an interrupted build; needs: folders by name."""

    folder: Path
    needs: dict[str, Path]
    recipe: Any  # the Stage's
    progress_bar: bool


@dataclass(frozen=True)
class Stage:
    """recipe: a frozen dataclass of JSON values, all inputs but the needs; build: fills the folder, or resumes that.

    revision: increased by hand when a change of the code changes the result.
    """

    name: str
    recipe: Any
    needs: tuple[str, ...]
    build: Callable[[Context], None]
    revision: int = 1


@dataclass(frozen=True)
class Status:
    """state: finished, started or absent; seconds: spent in all sessions; bytes: on disk."""

    name: str
    state: str
    seconds: float
    folder: Path
    bytes: int


# Called before a stage is built ("absent", "started") and when it exists ("finished").
OnStage = Callable[[Status], None]


def build(
    stages: Sequence[Stage],
    root: Path,
    *,
    only: Collection[str] | None = None,
    on_stage: OnStage | None = None,
    progress_bar: bool = True,
    clock: Callable[[], float] = time.monotonic,
    leads: bool = True,
    meet: Callable[[], None] = lambda: None,
) -> dict[str, Path]:
    """Build the unfinished stages in order, and return the folders by name. only: these stages and those they need.

    After an interruption at any instant, the next call resumes. Raises StagesInvalid, StageBusy, StageDamaged, and the
    errors of the stages. Several processes may build together: the one that `leads` locks and records; `meet` is a
    barrier of all.
    """
    root = Path(root)
    wanted = _with_needs(stages, only)
    folders = {name: root / f"{name}-{key}" for name, key in keys(stages).items()}
    report = on_stage or (lambda status: None)
    for stage in stages:
        if stage.name not in wanted:
            continue
        folder = folders[stage.name]
        is_done = _is_done(folder)
        meet()  # all have checked before one begins
        if not is_done:
            report(_status(stage, folder))
            context = Context(
                folder=folder,
                needs={need: folders[need] for need in stage.needs},
                recipe=stage.recipe,
                progress_bar=progress_bar,
            )
            if leads:
                _build_one(stage, context, clock)
            else:
                stage.build(context)
            meet()
        report(_status(stage, folder))
    return {stage.name: folders[stage.name] for stage in stages if stage.name in wanted}


def status(stages: Sequence[Stage], root: Path) -> list[Status]:
    """Return the status of each stage, in order."""
    return [_status(stage, folder_of(stages, Path(root), stage.name)) for stage in stages]


def folder_of(stages: Sequence[Stage], root: Path, name: str) -> Path:
    """Return the stage's folder, whether or not it exists."""
    found = keys(stages)
    if name not in found:
        raise StagesInvalid(f"There is no stage {name!r}. There are: {', '.join(found)}.")
    return Path(root) / f"{name}-{found[name]}"


def keys(stages: Sequence[Stage]) -> dict[str, str]:
    """Return the key of each stage by name, 16 hexadecimal digits: a hash of its inputs and of its needs' keys."""
    found: dict[str, str] = {}
    for stage in stages:
        if stage.name in found:
            raise StagesInvalid(f"Two stages are named {stage.name!r}. Rename one.")
        if missing := [need for need in stage.needs if need not in found]:
            raise StagesInvalid(
                f"The stage {stage.name!r} needs {', '.join(missing)}, which must come before it in the table."
            )
        inputs = {
            "name": stage.name,
            "revision": stage.revision,
            "recipe": _recipe_values(stage),
            "needs": [found[need] for need in stage.needs],
        }
        found[stage.name] = _hash(inputs)
    return found


def key_of(recipe: Any) -> str:
    """Return the key, 16 hexadecimal digits, of a dataclass of JSON values: for folders that several stages share."""
    return _hash(asdict(recipe))


def _hash(values: dict[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _recipe_values(stage: Stage) -> dict[str, Any]:
    if not is_dataclass(stage.recipe) or isinstance(stage.recipe, type):
        raise StagesInvalid(f"The recipe of the stage {stage.name!r} must be a dataclass instance.")
    values = asdict(stage.recipe)
    try:
        json.dumps(values, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise StagesInvalid(
            f"The recipe of the stage {stage.name!r} holds a value that is not JSON: {error}. "
            "Use numbers, text, true, false, None, tuples and dataclasses of these."
        ) from error
    return values


def _with_needs(stages: Sequence[Stage], only: Collection[str] | None) -> set[str]:
    names = {stage.name for stage in stages}
    if only is None:
        return names
    if unknown := sorted(set(only) - names):
        known = ", ".join(stage.name for stage in stages)
        raise StagesInvalid(f"There is no stage {', '.join(unknown)}. There are: {known}.")
    wanted = set(only)
    for stage in reversed(stages):  # needs come earlier in the table
        if stage.name in wanted:
            wanted |= set(stage.needs)
    return wanted


# --- one stage ------------------------------------------------------------------------------------
def _build_one(stage: Stage, context: Context, clock: Callable[[], float]) -> None:
    folder = context.folder
    folder.mkdir(parents=True, exist_ok=True)
    with _held(stage, folder):
        if _is_done(folder):  # by another process meanwhile
            return
        with _timed(folder, clock) as elapsed:
            stage.build(context)
        _write_json(
            folder / DONE,
            {
                "name": stage.name,
                "key": folder.name.rpartition("-")[2],
                "revision": stage.revision,
                "seconds": round(elapsed(), 1),
                "recipe": asdict(stage.recipe),
                "needs": {name: path.name for name, path in context.needs.items()},
                "machine": _machine(),
            },
        )


def _is_done(folder: Path) -> bool:
    return _read_json(folder / DONE) is not None


def _status(stage: Stage, folder: Path) -> Status:
    done, spent = _read_json(folder / DONE), _read_json(folder / SECONDS)
    state = "finished" if done is not None else "started" if folder.exists() else "absent"
    record = done or spent or {}
    return Status(stage.name, state, float(record.get("seconds", 0.0)), folder, _bytes(folder))


def _bytes(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except FileNotFoundError:  # a running build has just moved it
                continue
    return total


@contextmanager
def _held(stage: Stage, folder: Path) -> Iterator[None]:
    """Lock the folder for this process."""
    lock = folder / LOCK
    with locked(lock) as is_free:
        if not is_free:
            holder = lock.read_text("utf-8").strip() or "unknown"
            raise StageBusy(
                f"The stage {stage.name!r} is being built in {folder} by another process (id {holder}). "
                "Wait for it, or stop it; the same command then resumes."
            )
        lock.write_text(f"{os.getpid()}\n", "utf-8")
        yield


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Lock the file for the context and yield True; yield False if another process holds the lock.

    The system releases it even if the process is killed.
    """
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@contextmanager
def _timed(folder: Path, clock: Callable[[], float]) -> Iterator[Callable[[], float]]:
    """Yield a function that returns the seconds spent on the folder in all sessions; they are saved regularly."""
    path = folder / SECONDS
    before = float((_read_json(path) or {}).get("seconds", 0.0))
    started = clock()
    ended = threading.Event()

    def elapsed() -> float:
        return before + clock() - started

    def keep() -> None:
        while not ended.wait(KEEP_TIME_EVERY_SECONDS):
            _write_json(path, {"seconds": round(elapsed(), 1)})

    keeper = threading.Thread(target=keep, daemon=True)
    keeper.start()
    try:
        yield elapsed
    finally:
        ended.set()
        keeper.join()
        _write_json(path, {"seconds": round(elapsed(), 1)})


def _machine() -> dict[str, Any]:
    """Return the facts of the machine on which the time of a stage depends."""
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "torch": importlib.metadata.version("torch"),
    }


def cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    for line in text.splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


# --- files ----------------------------------------------------------------------------------------
def _read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in the file; None if there is no file. Raises StageDamaged."""
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, TypeError, ValueError) as error:
        raise StageDamaged(
            f"{path} cannot be read: {error}. Delete {path.parent} to build the stage again."
        ) from error


def _write_json(path: Path, value: dict[str, Any]) -> None:
    """Write the object atomically."""
    atomic.write_file(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
