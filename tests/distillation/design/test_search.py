"""Order, exclusions and end of a search. Candidates are judged without training."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from distillation.design import search as searching
from distillation.design.candidates import Candidate, Choose, Judged
from distillation.design.halving import SHARES
from distillation.design.limits import Limits
from distillation.design.rungs import Ladder
from distillation.design.search import Search, SearchRequest
from distillation.design.space import Space
from distillation.pipeline.recipes import ONE_STEP
from distillation.resumable.progress import SliceOver
from distillation.resumable.stages import StageBusy
from distillation.training.errors import TrainingDiverged
from tests.distillation.design.candidates import PARAMS, candidate

METHODS = ("guidance", "hinton", "mmd", "bayes")  # all cost the same, so one measurement serves all
SPACE = Space(
    ONE_STEP,
    {name: (value,) for name, value in PARAMS.items()} | {"method": METHODS},
    frozenset({("tiny", "1")}),
    8,
)
MINUTE = 60.0


class Journal:
    """A journal in memory."""

    def __init__(self, *known: Candidate) -> None:
        self.rows = list(known)

    def read(self) -> list[Candidate]:
        return list(self.rows)

    def add(self, choose: Choose) -> Candidate | None:
        params = choose(self.rows)
        if params is None:
            return None
        self.rows.append(Candidate(len(self.rows), params))
        return self.rows[-1]

    def keep(self, one: Candidate) -> None:
        self.rows[one.number] = one


class Clock:
    def __init__(self) -> None:
        self.seconds, self.is_stopped = 0.0, False

    def spent(self) -> float:
        return self.seconds

    def is_over(self) -> bool:
        return self.is_stopped


@dataclass(frozen=True)
class Instant(Ladder):
    """Judges without training: candidate 1 is the best, candidate 2 diverges; the first rung takes ten minutes."""

    clock: Clock
    done: list[tuple[int, int]]
    busy: list[str]

    def prepare(self) -> None:
        self._if_busy("pairs")

    def judge(self, one: Candidate, rung: int) -> Judged:
        self._if_busy("structure")
        self.done.append((one.number, rung))
        seconds = 10 * MINUTE * (SHARES[rung] - (SHARES[rung - 1] if rung else 0)) / SHARES[0]
        self.clock.seconds += seconds
        if one.number == 2:
            raise TrainingDiverged(3, "loss", float("nan"))
        quality = 0.9 if one.number == 1 else 0.5
        judged = candidate(one.number, *[quality] * (rung + 1)).rungs[rung]
        return replace(judged, seconds=seconds)

    def _if_busy(self, name: str) -> None:
        if name in self.busy:
            raise StageBusy(name)


@pytest.fixture
def search(tmp_path: Path) -> Search:
    clock = Clock()
    ladder = Instant(SPACE, None, None, tmp_path, tmp_path, "design-1", clock, [], [])  # type: ignore[arg-type]
    first = replace(candidate(0), params=SPACE.first())
    request = SearchRequest(Limits(size=8_000_000), "best", "cpu", "torch", hours=100)
    return Search(request, ladder, Journal(first), clock, wait=lambda: ladder.busy.clear())


def test_all_candidates_are_tried_the_best_reaches_the_top_and_diverged_ones_are_refused(search):
    search.run()

    rows = search.journal.read()
    assert [len(one.rungs) for one in rows] == [1, 4, 0, 1]
    assert "The loss 'loss' was nan" in rows[2].refused
    assert all(one.costs == rows[0].costs for one in rows)


def test_the_search_ends_in_time_and_starts_no_training_that_would_not_end(search):
    replace(search, request=replace(search.request, hours=1)).run()

    # Four of 10 minutes, of which one diverged; then the best one continues, which takes 20.
    assert search.clock.seconds == pytest.approx(60 * MINUTE)
    assert search.ladder.done == [(0, 0), (1, 0), (2, 0), (3, 0), (1, 1)]


@pytest.mark.parametrize(
    ("hours", "most", "expected"),
    [(100, 0, 8), (2, 0, 2), (2, 3, 1), (0.5, 0, 1), (4, 0, 4), (100, 9, 3)],
)
def test_at_most_a_third_of_the_candidates_that_fit_are_drawn_at_random(
    search, hours, most, expected
):
    """One took ten minutes; candidates are added during 60 % of the time."""
    one = replace(search, request=replace(search.request, hours=hours, candidates=most))
    rung = replace(candidate(0, 0.5).rungs[0], seconds=10 * MINUTE)
    search.clock.seconds = 10 * MINUTE
    assert one._startup([replace(candidate(0, 0.5), rungs=(rung,))]) == expected
    assert one._startup([candidate(0)]) == (min(8, most // 3) if most else 8)  # no rate is known


def test_the_number_of_candidates_is_limited(search):
    replace(search, request=replace(search.request, candidates=2)).run()

    assert len(search.journal.read()) == 2


def test_candidates_over_the_limits_are_never_trained(search):
    limits = Limits(size=7_000_000)
    replace(search, request=replace(search.request, limits=limits)).run()

    assert search.ladder.done == [] and len(search.journal.read()) == 4


def test_a_hopeless_search_ends_early(search, monkeypatch):
    monkeypatch.setattr(searching, "HOPELESS", 2)
    replace(search, request=replace(search.request, limits=Limits(size=7_000_000))).run()

    assert len(search.journal.read()) == 2


def test_the_search_waits_for_stages_of_another_process(search):
    search.ladder.busy.extend(["pairs", "structure"])
    search.run()

    assert [len(one.rungs) for one in search.journal.read()] == [1, 4, 0, 1]


def test_a_candidate_of_another_process_is_not_trained(search):
    one = replace(search, request=replace(search.request, candidates=1))
    with search._lock(0):
        waited: list[int] = []

        def wait() -> None:
            waited.append(1)
            search.clock.is_stopped = len(waited) == 3

        with pytest.raises(SliceOver):
            replace(one, wait=wait).run()

    assert waited == [1, 1, 1] and search.ladder.done == []


def test_a_session_that_is_over_ends_between_two_candidates(search):
    search.clock.is_stopped = True

    with pytest.raises(SliceOver):
        search.run()
