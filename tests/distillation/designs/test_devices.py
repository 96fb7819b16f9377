"""Devices of this machine, and those that live workers report."""

import pytest

from distillation.design import costs
from distillation.design.limits import LimitRefused
from distillation.designs import devices
from distillation.worker import process
from generation.infra import heartbeat
from generation.models import Worker
from tests.factories import make_worker


def test_the_devices_of_this_machine_are_those_that_torch_finds():
    assert list(devices.present()) == costs.present()


@pytest.mark.django_db
def test_a_device_that_no_live_worker_has_is_refused_with_those_that_are_there():
    make_worker(name="one", queue="distillation", devices=["cpu", "cuda:0", "cuda:1"])
    make_worker(name="gone", queue="distillation", devices=["cpu", "mps"], silent_seconds=9999)
    make_worker(name="other", queue="generation", devices=["cuda:7"])
    for device in ("auto", "cpu", "cuda", "cuda:0", "cuda:1"):
        devices.check_reported(device)
    for device in ("mps", "cuda:7"):
        with pytest.raises(LimitRefused, match="There are cpu, cuda:0, cuda:1") as caught:
            devices.check_reported(device)
        assert caught.value.field == "time" and device in caught.value.reason


@pytest.mark.django_db
def test_without_a_worker_only_a_cpu_can_be_asked_for():
    devices.check_reported("cpu")
    with pytest.raises(LimitRefused, match="There are cpu"):
        devices.check_reported("cuda")


@pytest.mark.django_db(transaction=True)
def test_a_distillation_worker_reports_its_devices(redis_server):
    process.begin()
    try:
        assert Worker.objects.get(queue=devices.QUEUE).devices == list(devices.present())
    finally:
        heartbeat.end()
