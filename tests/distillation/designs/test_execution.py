"""Designs in the distillation worker, at toy size."""

import pytest

from distillation.design.limits import Limits
from distillation.designs import execution
from distillation.designs import lifecycle as designs
from distillation.designs.briefs import Brief
from distillation.models import Design
from distillation.pipeline import overrides
from distillation.worker import process
from generation.models import Release
from tests.distillation.factories import make_run
from tests.distillation.toys import SMALL

pytestmark = pytest.mark.django_db


@pytest.fixture
def brief(teacher, detector, settings) -> Brief:
    settings.RUNTIME = "torch"
    settings.DISTILLATION_DETECTOR = str(detector)
    return Brief(
        recipe={"recipe": "starter-1step", **overrides.parse(SMALL)},
        teacher=Release.objects.get(name="toy"),
        limits=Limits(size=1000),
        device="cpu",
        wish="best",
        hours=1,
        most_candidates=1,
    )


def test_a_worker_completes_a_queued_design(brief):
    designs.create(brief, is_for_workers=True)
    process.run()

    design = Design.objects.get()
    assert (design.status, design.choice) == ("succeeded", None)
    assert "None of 1 measured candidates is within the limits" in design.reason
    assert (designs.output(design) / "report.html").is_file()


def test_a_design_is_queued_again_after_its_slice_if_a_run_waits(brief, settings):
    settings.SLICE_SECONDS = 0.001
    design = designs.create(brief, is_for_workers=True)
    make_run(status="queued")
    claimed = designs.claim("worker-1", on=["cpu"])
    execution.execute_slice(claimed)

    assert Design.objects.get(pk=design.pk).status == "queued"


def test_a_design_for_a_device_of_another_machine_stays_queued(brief):
    designs.create(brief, is_for_workers=True)
    Design.objects.update(device="cuda:7")
    assert not process.is_work_waiting()
    process.run()

    assert Design.objects.get().status == "queued"


def test_a_design_fails_with_the_reason_on_a_full_disk(brief, settings):
    settings.DISTILLATION_FREE_GIB = 10**9
    designs.create(brief, is_for_workers=True)
    process.run()

    design = Design.objects.get()
    assert design.status == "failed" and "DISTILLATION_FREE_GIB" in design.error_detail
