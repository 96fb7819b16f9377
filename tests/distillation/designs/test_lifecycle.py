"""Life cycle of designs, and the rows of their candidates."""

from dataclasses import replace
from datetime import timedelta

import pytest
from django.utils import timezone

from distillation.design.limits import Limits
from distillation.designs import lifecycle as designs
from distillation.designs.briefs import Brief
from distillation.designs.candidates import Rows
from distillation.errors import DesignFinished
from distillation.models import Design
from generation.models import Release
from tests.distillation.design.candidates import PARAMS, candidate
from tests.factories import make_release

pytestmark = pytest.mark.django_db


@pytest.fixture
def brief() -> Brief:
    return Brief(
        recipe={"recipe": "starter-1step"},
        teacher=make_release(kind=Release.Kind.TEACHER),
        limits=Limits(size=8_000_000),
        device="cpu",
        wish="best",
        hours=2,
    )


def test_the_same_brief_resumes_the_same_design_whatever_its_hours(brief):
    first = designs.resumed_or_created(brief)

    assert designs.resumed_or_created(replace(brief, hours=3)) == first
    assert designs.resumed_or_created(replace(brief, wish="smallest")) != first
    designs.cancel(first)
    assert designs.resumed_or_created(brief) != first


def test_time_is_added_up_and_the_lease_renewed_until_the_design_is_left(brief):
    design = designs.join(designs.resumed_or_created(brief), "here", hours=2)

    assert designs.note(design, seconds=3600, at_work="pairs") == 3600
    assert designs.note(design, seconds=60, at_work="Candidate 0") == 3660
    row = Design.objects.get()
    assert (row.status, row.at_work, round(row.percent)) == ("running", "Candidate 0", 51)
    designs.leave(design)
    assert Design.objects.get().status == "paused"
    designs.cancel(design)
    assert designs.note(design, seconds=60, at_work="late") is None


def test_a_design_that_was_rescued_during_a_long_step_runs_again_with_the_next_note(brief):
    design = designs.join(designs.resumed_or_created(brief), "here", hours=2)
    Design.objects.update(lease_expires_at=timezone.now() - timedelta(seconds=1))
    designs.rescue()

    assert designs.note(design, seconds=1, at_work="") == 1
    assert Design.objects.get().status == "running"


def test_a_worker_claims_the_oldest_queued_design_and_returns_it_to_the_queue(brief):
    first = designs.create(brief, is_for_workers=True)
    designs.create(brief, is_for_workers=True)
    designs.create(brief, is_for_workers=False)  # its command continues it

    assert designs.claim("worker-1", on=["cpu"]) == first
    designs.leave(first)
    assert Design.objects.get(pk=first.pk).status == "queued"


def test_a_worker_claims_only_designs_for_a_device_of_its_machine(brief):
    for device in ("cuda:1", "cuda", "mps", "cpu", "auto"):
        designs.create(replace(brief, device=device), is_for_workers=True)

    def claimed(*on: str) -> list[str]:
        found = []
        while design := designs.claim("worker-1", on=on):
            found.append(design.device)
        return found

    assert claimed("cpu", "cuda:0") == ["cuda", "cpu", "auto"]
    assert claimed("cpu") == []
    assert claimed("cpu", "cuda:0", "cuda:1") == ["cuda:1"]


def test_a_design_of_a_lost_process_is_queued_or_paused(brief):
    for is_for_workers in (True, False):
        design = designs.create(brief, is_for_workers=is_for_workers)
        designs.join(design, "lost", hours=2)
    assert designs.rescue() == 0
    Design.objects.update(lease_expires_at=timezone.now() - timedelta(seconds=1))

    assert designs.rescue() == 2
    assert set(Design.objects.values_list("is_for_workers", "status")) == {
        (True, "queued"),
        (False, "paused"),
    }


def test_a_finished_design_is_reopened_only_for_more_hours(brief):
    design = designs.join(designs.resumed_or_created(brief), "here", hours=2)
    designs.note(design, seconds=7200, at_work="")
    designs.finish(design, choice=0, reason="Because.")
    design = Design.objects.get()
    assert (design.status, design.percent, design.reason) == ("succeeded", 100, "Because.")

    assert designs.join(design, "here", hours=2).status == "succeeded"
    assert designs.join(design, "here", hours=3).status == "running"


def test_a_canceled_design_stays_canceled_and_a_finished_one_cannot_be_canceled(brief):
    design = designs.create(brief, is_for_workers=True)
    assert designs.cancel(designs.cancel(design)).status == "canceled"
    designs.finish(design, choice=0, reason="Late.")
    assert Design.objects.get().status == "canceled"

    other = designs.join(designs.create(brief, is_for_workers=True), "here", hours=2)
    designs.fail(other, "Broken.")
    with pytest.raises(DesignFinished):
        designs.cancel(other)


def test_stored_candidates_are_read_unchanged(brief):
    rows = Rows(designs.create(brief, is_for_workers=True))
    added = rows.add(lambda known: PARAMS if not known else None)
    kept = replace(candidate(0, 0.8, 0.9), params=PARAMS)
    rows.keep(kept)

    assert (added.number, added.costs) == (0, None)
    assert rows.read() == [kept]
    assert rows.add(lambda known: PARAMS if not known else None) is None
