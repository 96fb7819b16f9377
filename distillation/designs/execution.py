"""Execution of a design in this process: its search until the time is over, then its front, choice and files."""

import time
from collections.abc import Callable
from typing import Any

import structlog
from django.conf import settings

from distillation import folders
from distillation.design import costs, files, front, report, rungs
from distillation.design.candidates import Candidate
from distillation.design.front import Choice
from distillation.design.limits import Limits
from distillation.design.report import Reference
from distillation.design.rungs import Ladder
from distillation.design.search import Search, SearchRequest
from distillation.designs import lifecycle as designs
from distillation.designs.candidates import Rows
from distillation.detector.errors import DetectorUnusable
from distillation.errors import DistillationRefused
from distillation.examples import lifecycle as examples
from distillation.models import Design
from distillation.resumable import progress
from distillation.resumable.stages import StageBusy, StageError
from distillation.runs import inputs, yielding
from distillation.runs import lifecycle as runs
from distillation.training.errors import TrainingError
from generation.engine import release as manifests
from generation.engine.errors import EngineError
from generation.errors import GenerationError
from generation.infra import heartbeat, stalls
from generation.releases import lifecycle as releases

log = structlog.get_logger(__name__)

NOTE_SECONDS = 1.0  # between two writes of the progress
WAIT_SECONDS = 1.0  # for other processes, before the next look
Show = Callable[[float, str], None]  # (seconds worked, present activity)


class Watch:
    """Clock of a design and watcher of its trainings: adds the time to the row, renews the lease, ends the session.

    is_stopped: returns whether this process must stop.
    """

    def __init__(
        self, design: Design, is_stopped: Callable[[], bool], show: Show, *, yields: bool
    ) -> None:
        """yields: pause while jobs wait or run."""
        self._design, self._is_stopped, self._show = design, is_stopped, show
        self._yields = yields
        self._spent = design.seconds
        self._noted = time.monotonic()
        self._is_lost = False
        self.at_work = ""

    def spent(self) -> float:
        self._note()
        return self._spent

    def is_over(self) -> bool:
        return self._is_lost or self._is_stopped()

    def say(self, text: str) -> None:
        self.at_work = text

    def wait(self) -> None:
        """Wait for other processes of the design; the time does not count as work."""
        self._note()
        time.sleep(WAIT_SECONDS)
        self._noted = time.monotonic()

    def __call__(self, title: str, done: int, total: int) -> bool:
        """Return whether to stop. Called between two steps, as `resumable.progress.Watcher`."""
        if time.monotonic() - self._noted >= NOTE_SECONDS:
            self._note()
            if self._yields:
                yielding.give_way(self.is_over)
                self._noted = time.monotonic()  # waiting does not count as work
            self._show(self._spent, f"{self.at_work} {title} {100 * done / max(1, total):.0f} %")
        return self.is_over() or self._spent >= self._design.hours * 3600

    def _note(self) -> None:
        stalls.progressed()
        now = time.monotonic()
        if folders.free_gib() < settings.DISTILLATION_FREE_GIB:
            raise DistillationRefused(
                f"{folders.root()} has less than DISTILLATION_FREE_GIB ({settings.DISTILLATION_FREE_GIB:g}) free. Free "
                "some space, for instance with manage.py run clean, then start the design again."
            )
        spent = designs.note(self._design, seconds=now - self._noted, at_work=self.at_work)
        self._noted = now
        if spent is None:
            self._is_lost = True
        else:
            self._spent = spent


def prepare(design: Design, *, detector: str = "") -> Ladder:
    """Return the ladder of the design; its first session takes the snapshot of the catalogue.

    Raises GenerationError, EngineError, TrainingError.
    """
    recipe = inputs.recipe_of(design.recipe)
    kept = folders.root() / design.catalogue if design.catalogue else None
    given = inputs.gather(
        design.teacher,
        catalogue=kept if kept is not None and kept.is_dir() else None,
        detector=detector,
        most_variants=recipe.most_variants,
        tags=design.tags,
    )
    costs.check_device(design.device)
    ladder = rungs.ladder(
        recipe,
        given,
        root=designs.root(),
        sheets=designs.output(design) / files.SHEETS,
        name=design.name,
    )
    if design.student is not None:
        _check_comparable(design, ladder)
    Design.objects.filter(pk=design.pk).update(catalogue=given.catalogue.name)
    return ladder


def execute(
    design: Design,
    ladder: Ladder,
    *,
    is_stopped: Callable[[], bool],
    show: Show = lambda spent, text: None,
    say: Callable[[str], None] = lambda text: None,
    yields: bool = False,
) -> Choice:
    """Search until the time is over or nothing is left, then write the results and finish the design.

    Raises SliceOver if the session ends earlier, and errors that do not concern a single candidate.
    """
    watch = Watch(design, is_stopped, show, yields=yields)
    request = SearchRequest(
        limits=Limits.from_json(design.limits),
        wish=design.wish,
        device=design.device,
        runtime=settings.RUNTIME,
        hours=design.hours,
        candidates=design.most_candidates,
    )

    def both(text: str) -> None:
        watch.say(text)
        say(text)

    journal = Rows(design)
    try:
        with progress.watched(watch):
            Search(request, ladder, journal, watch, say=both, wait=watch.wait).run()
    except progress.SliceOver:
        if watch.is_over():
            raise
    if watch.is_over():
        raise progress.SliceOver
    candidates = journal.read()
    both("Writing the results.")
    choice = report.write(
        designs.output(design),
        title=design.name,
        description=design.recipe,
        request=request,
        space=ladder.space,
        candidates=candidates,
        reference=_reference(design, ladder, request, candidates),
    )
    designs.finish(design, choice=choice.number, reason=choice.reason)
    return choice


def execute_slice(design: Design) -> None:
    """Work on a claimed design until it ends, or until its slice is over and other work waits."""
    ends = time.monotonic() + settings.SLICE_SECONDS

    def is_stopped() -> bool:
        if heartbeat.stopping.is_set():
            return True
        return time.monotonic() >= ends and (runs.waiting().exists() or examples.waiting().exists())

    try:
        execute(design, prepare(design), is_stopped=is_stopped, yields=True)
    except (progress.SliceOver, StageBusy):
        designs.leave(design)
    except (TrainingError, StageError, DetectorUnusable) as error:
        designs.fail(design, str(error))
    except (GenerationError, EngineError) as error:
        designs.fail(design, error.detail)
    except Exception as error:
        log.exception("design_crashed", design=design.name)
        designs.fail(design, str(error) or repr(error))


def _check_comparable(design: Design, ladder: Ladder) -> None:
    """Raise DistillationRefused unless the student to compare with covers the design's variants."""
    student = design.student
    if student is None:
        return
    manifest = manifests.read(releases.folder(student))
    catalogue = ladder.loaded.catalogue
    missing = set(catalogue.slugs) - set(manifest.covered_variants)
    is_alike = manifest.encoder_fingerprint == catalogue.encoder_fingerprint
    if (
        not is_alike
        or manifest.image_sizes[0] != ladder.loaded.teacher.manifest.image_sizes[0]
        or missing
    ):
        raise DistillationRefused(
            f"{student.name} cannot be compared: it has another text encoder or image size, or does not cover "
            f"{len(missing)} of the {len(catalogue)} prompt variants. Name another student, or none."
        )


def _reference(
    design: Design, ladder: Ladder, request: SearchRequest, candidates: list[Candidate]
) -> Reference | None:
    """Return the student to compare with, measured on the same device and the seeds of the choice's last rung."""
    number = front.choose(candidates, request.limits, request.wish).number
    last = next((one.last for one in candidates if one.number == number), None)
    if design.student is None or last is None:
        return None
    folder = releases.folder(design.student)
    measured: dict[str, Any] = {
        "catalogue": ladder.loaded.catalogue,
        "limits": Limits(),
        "device": request.device,
        "runtime": request.runtime,
    }
    return Reference(
        design.student.name,
        costs.of_release(folder, **measured),
        ladder.judge_release(folder, last.rung, title=design.student.name),
    )
