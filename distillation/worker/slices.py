"""Execution of a run's slices: stages are built until the time is up, or the run is paused or canceled.

Generation has priority: while jobs wait or run, a slice pauses between two steps. When its time is up and nothing else
waits, the same process continues with the next slice and keeps its networks.
"""

import time
from functools import partial

import structlog
from django.conf import settings

from distillation import folders
from distillation.detector.network import DetectorUnusable
from distillation.examples import lifecycle as examples
from distillation.models import Run, Slice
from distillation.pipeline import recipes
from distillation.pipeline.acceptance import RELEASE
from distillation.pipeline.stages import Chain
from distillation.reports import evaluations, stage_list
from distillation.resumable import progress, stages
from distillation.resumable.stages import StageBusy, StageError, Status
from distillation.runs import inputs, promotion, yielding
from distillation.runs import lifecycle as runs
from distillation.training.errors import TrainingError
from distillation.worker.lease import Holding
from generation.engine.errors import EngineError
from generation.errors import FileMissing, GenerationError
from generation.infra import heartbeat, stalls
from generation.jobs.failures import Failure
from generation.worker.writing import patiently

log = structlog.get_logger(__name__)

NOTE_SECONDS = 1.0  # between two writes of the percentage


def execute(run: Run, holding: Holding) -> None:
    """Execute slices of a run and record the outcome in its rows. An error ends the slice, not the process."""

    def give_back(outcome: Slice.Outcome, detail: str = "", code: str = "") -> None:
        hold = holding.hold
        if hold is not None:
            patiently(partial(runs.give_back, hold, outcome, detail=detail, code=code))

    try:
        _build(run, holding)
    except progress.SliceOver:
        stopped = heartbeat.stopping.is_set()
        give_back(Slice.Outcome.STOPPED if stopped else Slice.Outcome.OVER)
    except StageBusy as error:
        # Such as manage.py distill, or a worker whose lease expired and whose process has not ended.
        give_back(Slice.Outcome.FAILED, str(error), runs.BUSY)
    except (TrainingError, StageError, DetectorUnusable) as error:
        give_back(Slice.Outcome.FAILED, str(error), runs.REFUSED)
    except (GenerationError, EngineError) as error:
        is_temporary = error.retryable and not isinstance(error, FileMissing)
        give_back(Slice.Outcome.FAILED, error.detail, error.code if is_temporary else runs.REFUSED)
    except Exception as error:
        failure = Failure.of(error)
        if not failure.is_infrastructure:
            log.exception("slice_crashed", run=run.name)
        give_back(Slice.Outcome.FAILED, failure.detail, failure.code)


def _build(run: Run, holding: Holding) -> None:
    """Build the missing stages. Raises SliceOver when the slice ends, and the errors of stages."""
    chain = _chain(run, holding)
    watch = _Watch(holding, stages.status(chain.table(), folders.root()))
    with progress.watched(watch):
        made = chain.build(folders.root(), on_stage=watch.enter, progress_bar=False)
    if holding.hold is not None:
        evaluations.keep(run.name, made)
        promotion.conclude(run, holding.hold, made)


def _chain(run: Run, holding: Holding) -> Chain:
    """Return the stages of the run. Its first slice sets the catalogue and the release to be replaced in the row.

    So does a later one if the folder of the catalogue is missing.
    """
    recipe = inputs.recipe_of(run.recipe)
    if run.begins_with is not None:
        recipe = recipes.warm(recipe)
    # The folder is missing after the restoration of a backup, and after cleaning: the run starts from the beginning.
    is_first = not run.catalogue or not (folders.root() / run.catalogue).is_dir()
    if is_first:
        run.replaces = inputs.compared_with(run.teacher, run.tags)
    given = inputs.gather(
        run.teacher,
        begins_with=run.begins_with,
        active=run.replaces,
        catalogue=None if is_first else folders.root() / run.catalogue,
        most_variants=recipe.most_variants,
        tags=run.tags,
    )
    chain = Chain(recipe, given, name=run.name)
    if is_first:
        chain.check()
    is_held = holding.hold is not None and runs.note(
        holding.hold,
        catalogue=given.catalogue.name,
        variants=len(chain.catalogue),
        replaces=run.replaces,
        folders={
            status.name: status.folder.name
            for status in stages.status(chain.table(), folders.root())
        },
    )
    if not is_held:
        raise progress.SliceOver
    return chain


class _Watch:
    """Watcher of a run's progress: writes it to the row, pauses while jobs wait, ends the slice in time."""

    def __init__(self, holding: Holding, table: list[Status]) -> None:
        self._holding = holding
        self._names = [status.name for status in table]
        self._shares = stage_list.shares(self._names)
        self._finished = {status.name for status in table if status.state == "finished"}
        self._stage = next((name for name in self._names if name not in self._finished), RELEASE)
        self._part = 0.0
        self._has_worked = (
            False  # otherwise slices shorter than the start-up time would never finish a run
        )
        self._ends = time.monotonic() + settings.SLICE_SECONDS
        self._noted = self._looked = 0.0

    def enter(self, status: Status) -> None:
        """Record that a stage begins or is already finished."""
        stalls.progressed()
        if status.state == "finished":
            self._has_worked |= status.name not in self._finished
            self._finished.add(status.name)
        else:
            self._stage = status.name
        self._part = 0.0
        self._note()
        if self._is_stopped() or (self._has_worked and self._is_over()):
            raise progress.SliceOver

    def __call__(self, title: str, done: int, total: int) -> bool:
        """Return whether to stop. Called between two steps, as `distillation.resumable.progress.Watcher`."""
        stalls.progressed()
        self._part = max(self._part, done / max(1, total))  # a stage may have several bars
        self._has_worked = True
        now = time.monotonic()
        if now - self._noted >= NOTE_SECONDS:
            self._note()
        if now - self._looked >= yielding.LOOK_SECONDS:
            yielding.give_way(self._is_over)
            self._looked = time.monotonic()
        return self._is_over()

    def _is_stopped(self) -> bool:
        return self._holding.lost.is_set() or heartbeat.stopping.is_set()

    def _is_over(self) -> bool:
        if self._is_stopped():
            return True
        return time.monotonic() >= self._ends and not self._renew()

    def _renew(self) -> bool:
        """Begin the next slice unless another run or a source waits. Return whether it has begun."""
        hold = self._holding.hold
        if hold is None or examples.waiting().exists():
            return False
        following = runs.renew(hold, **self._facts())
        if following is None:
            return False
        self._holding.hold = following
        self._ends = time.monotonic() + settings.SLICE_SECONDS
        return True

    def _note(self) -> None:
        self._noted = time.monotonic()
        self._check_space()
        hold = self._holding.hold
        if hold is None or not runs.note(hold, **self._facts()):
            self._holding.lost.set()

    def _check_space(self) -> None:
        """Pause the run if the disk, which also stores images, is nearly full. Retries would not help."""
        hold = self._holding.hold
        free = folders.free_gib()
        if hold is None or free >= settings.DISTILLATION_FREE_GIB:
            return
        detail = (
            f"{folders.root()} has {free:.1f} GiB free, and DISTILLATION_FREE_GIB is {settings.DISTILLATION_FREE_GIB}. "
            "Free some space, for instance with manage.py run clean, then resume the run."
        )
        runs.pause(Run(pk=hold.run_id), code="disk_full", detail=detail)

    def _facts(self) -> dict[str, str | float]:
        return {"stage": self._stage, "percent": round(self._percent(), 1)}

    def _percent(self) -> float:
        """Return the percentage done, below 100: only a finished run has that."""
        whole = sum(self._shares.get(name, 1) for name in self._names)
        done = sum(self._shares.get(name, 1) for name in self._finished)
        if self._stage not in self._finished:
            done += self._shares.get(self._stage, 1) * self._part
        return min(99.9, 100 * done / whole)
