"""Search of a design: measure candidates, train those within the limits in rungs, until the time is over.

Several processes may run one search: the journal's rows are shared, and a file lock marks the candidate that a process
works on, which the system releases even if the process is killed.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from statistics import median
from typing import Protocol

from distillation.design import costs, halving, sampler
from distillation.design.candidates import Candidate, Choose
from distillation.design.halving import SHARES
from distillation.design.limits import Limits
from distillation.design.rungs import Ladder
from distillation.design.space import SERVED
from distillation.evaluation.latency import SpeedNotMeasured
from distillation.resumable import stages
from distillation.resumable.progress import SliceOver
from distillation.resumable.stages import StageBusy
from distillation.training.errors import TrainingError
from generation.engine.errors import EngineError

EXPLORING = 0.6  # share of the time after which no candidate is added, if any has been trained
HOPELESS = 40  # after this many candidates without one within the limits no more are added


class Journal(Protocol):
    """The record of a search, which survives its processes."""

    def read(self) -> list[Candidate]:
        """Return all candidates, by number."""
        ...

    def add(self, choose: Choose) -> Candidate | None:
        """Add and return the candidate that `choose` returns for the present ones, under a lock; None if it is None."""
        ...

    def keep(self, candidate: Candidate) -> None:
        """Store the candidate's costs, rungs and refusal."""
        ...


class Clock(Protocol):
    """Time of a design."""

    def spent(self) -> float:
        """Return the seconds of work in all sessions."""
        ...

    def is_over(self) -> bool:
        """Return whether this session must end, even if time is left."""
        ...


@dataclass(frozen=True)
class SearchRequest:
    """Parameters of a search. hours: of work; candidates: their largest number, 0 = as many as the time allows.

    device, runtime: on which time and memory are measured.
    """

    limits: Limits
    wish: str
    device: str
    runtime: str
    hours: float
    candidates: int = 0
    seed: int = 0


def _wait() -> None:
    time.sleep(1.0)


@dataclass(frozen=True)
class Search:
    """A search. say: called with a sentence on each start and result; wait: called while others hold all work."""

    request: SearchRequest
    ladder: Ladder
    journal: Journal
    clock: Clock
    say: Callable[[str], None] = lambda text: None
    wait: Callable[[], None] = _wait

    def run(self) -> None:
        """Search until the time is over or nothing is left to try.

        Raises SliceOver, and errors that do not concern a single candidate.
        """
        self.say("Making the pairs and the teacher's pictures, which all candidates share.")
        while not self._prepare():
            self.wait()
        while self._left() > 0 and self._step():
            pass

    def _prepare(self) -> bool:
        """Make the pairs and pictures that all candidates share. Return False if another process is making them."""
        if self.clock.is_over():
            raise SliceOver
        try:
            self.ladder.prepare()
        except StageBusy:
            return False
        return True

    def _left(self) -> float:
        return self.request.hours * 3600 - self.clock.spent()

    def _step(self) -> bool:
        """Do the next piece of work. Return False if none is left."""
        if self.clock.is_over():
            raise SliceOver
        candidates, busy = self.journal.read(), set[int]()
        with self._claimed(candidates, busy) as claimed:
            if claimed is None:
                if busy:
                    self.wait()  # other processes work on the rest, and may give it back
                return bool(busy)
            candidate, rung = claimed
            if candidate.costs is None:
                self._measure(candidate, candidates)
            else:
                self._train(candidate, rung)
        return True

    @contextmanager
    def _claimed(
        self, candidates: list[Candidate], busy: set[int]
    ) -> Iterator[tuple[Candidate, int] | None]:
        """Yield the next candidate and rung with its lock held; None if there is nothing to do.

        The numbers of candidates that other processes work on are added to `busy`.
        """
        while True:
            found = self._next(candidates, busy)
            if found is None:
                yield None
                return
            with self._lock(found[0].number) as is_free:
                if is_free:
                    [current] = [
                        one for one in self.journal.read() if one.number == found[0].number
                    ]
                    if current == found[0]:  # no other process has changed it meanwhile
                        yield found
                        return
                busy.add(found[0].number)

    def _next(self, candidates: list[Candidate], busy: set[int]) -> tuple[Candidate, int] | None:
        request = self.request
        for candidate in candidates:  # left unmeasured by a process that was killed
            if candidate.costs is None and not candidate.refused and candidate.number not in busy:
                return candidate, 0

        def may(number: int, rung: int) -> bool:
            return number not in busy and self._estimate(candidates, rung) <= self._left()

        for is_adding in dict.fromkeys((self._is_adding(candidates), False)):
            job = halving.next_job(
                candidates, request.limits, request.wish, is_adding=is_adding, may=may
            )
            if job is not None:
                return job.candidate, job.rung
            if is_adding and may(0, 0) and (added := self._add()) is not None:
                candidates.append(added)
                return added, 0
        return None

    def _is_adding(self, candidates: Sequence[Candidate]) -> bool:
        """Return whether more candidates may be added."""
        request = self.request
        if request.candidates and len(candidates) >= request.candidates:
            return False
        if self.clock.spent() > EXPLORING * request.hours * 3600 and any(
            one.rungs for one in candidates
        ):
            return False
        measured = [one.costs for one in candidates if one.costs is not None]
        return len(measured) < HOPELESS or any(each.are_within(request.limits) for each in measured)

    def _add(self) -> Candidate | None:
        request, space = self.request, self.ladder.space
        return self.journal.add(
            lambda known: sampler.choose(
                space, known, request.limits, seed=request.seed, startup=self._startup(known)
            )
        )

    def _startup(self, candidates: Sequence[Candidate]) -> int:
        """Return how many candidates to draw at random: a third of those that fit into the time, at the measured rate.

        In two hours of slow cores about six fit, and the model must propose most of them.
        """
        request, seconds = self.request, self._estimate(candidates, 0)
        fit = float(request.candidates or inf)
        if seconds:
            left = EXPLORING * request.hours * 3600 - self.clock.spent()
            fit = min(fit, len(candidates) + left / seconds)
        return max(1, int(min(fit / 3, sampler.RANDOM)))

    def _estimate(self, candidates: Sequence[Candidate], rung: int) -> float:
        """Return the estimated seconds of the rung, from the median of earlier trainings; 0 before the first."""
        for place in range(rung, -1, -1):
            spans = [one.rungs[place].seconds for one in candidates if len(one.rungs) > place]
            if spans:
                return median(spans) * _length(rung) / _length(place)
        return 0.0

    # --- one candidate ----------------------------------------------------------------------------
    def _measure(self, candidate: Candidate, candidates: Sequence[Candidate]) -> None:
        """Measure the candidate's costs, or copy those of one that equals it in all axes that determine costs."""
        request, ladder = self.request, self.ladder
        same = next(
            (one.costs for one in candidates if one.costs and _served(one) == _served(candidate)),
            None,
        )
        try:
            found = same or costs.measure(
                ladder.space.recipe_of(candidate.params),
                teacher=ladder.loaded.teacher,
                catalogue=ladder.loaded.catalogue,
                limits=request.limits,
                device=request.device,
                runtime=request.runtime,
            )
        except (TrainingError, EngineError, SpeedNotMeasured) as error:
            if self.clock.is_over():  # Ctrl-C reaches the measuring process too
                raise SliceOver from error
            self._refuse(candidate, error)
            return
        self.journal.keep(replace(candidate, costs=found))
        over = ", ".join(name for name, value in found.excess(request.limits).items() if value > 0)
        self.say(
            f"Candidate {candidate.number}: {'over the limit ' + over if over else 'within the limits'}."
        )

    def _train(self, candidate: Candidate, rung: int) -> None:
        self.say(
            f"Candidate {candidate.number}: rung {rung}, {100 * SHARES[rung]:.0f} % of the training."
        )
        try:
            judged = self.ladder.judge(candidate, rung)
        except StageBusy:  # another process builds a stage that both candidates share
            self.wait()
            return
        except (TrainingError, EngineError) as error:
            self._refuse(candidate, error)
            return
        self.journal.keep(replace(candidate, rungs=(*candidate.rungs, judged)))
        self.say(
            f"Candidate {candidate.number}: quality {judged.quality:.3f} ({judged.low:.3f} to {judged.high:.3f})."
        )

    def _refuse(self, candidate: Candidate, error: Exception) -> None:
        text = error.detail if isinstance(error, EngineError) else str(error)
        self.journal.keep(replace(candidate, refused=text))
        self.say(f"Candidate {candidate.number} is left out: {text}")

    def _lock(self, number: int) -> AbstractContextManager[bool]:
        """Lock the candidate for the context, whose value is False if another process holds the lock."""
        folder = Path(self.ladder.root) / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return stages.locked(folder / f"{self.ladder.name}-{number}")


def _served(candidate: Candidate) -> tuple[str | int, ...]:
    return tuple(candidate.params.get(name, "") for name in SERVED)


def _length(rung: int) -> float:
    """Return the share of the training that the rung adds."""
    return SHARES[rung] - (SHARES[rung - 1] if rung else 0.0)
