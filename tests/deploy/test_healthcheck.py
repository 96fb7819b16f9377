"""Health checks of the containers, against a real web server and real rows."""

import socket
from datetime import timedelta

import pytest
from django.utils import timezone

from deploy import healthcheck
from deploy.local import ports
from generation.models import Worker
from tests.factories import make_worker
from tests.web import Web


@pytest.mark.django_db
def test_a_web_process_that_answers_is_healthy_whatever_its_host_name(tmp_path, monkeypatch):
    web = Web(tmp_path, ALLOWED_HOSTS=".retort.example.org")  # not the container's own address
    monkeypatch.setattr(healthcheck, "PORT", web.port)
    try:
        assert healthcheck.main(["web"]) == 0
    finally:
        web.stop()


def test_a_web_process_that_does_not_listen_is_unhealthy(monkeypatch):
    monkeypatch.setattr(healthcheck, "PORT", ports.pick())
    assert healthcheck.main(["web"]) == 1


@pytest.mark.django_db
@pytest.mark.parametrize(("silent_seconds", "code"), [(1, 0), (60, 1)])
def test_a_worker_is_healthy_while_its_heartbeat_is_fresh(silent_seconds: float, code: int):
    worker = make_worker()
    heartbeat_at = timezone.now() - timedelta(seconds=silent_seconds)
    Worker.objects.filter(pk=worker.pk).update(
        hostname=socket.gethostname(), heartbeat_at=heartbeat_at
    )
    assert healthcheck.main(["worker"]) == code


@pytest.mark.django_db
def test_the_heartbeat_of_another_host_is_ignored():
    make_worker()
    assert healthcheck.main(["worker"]) == 1


def test_an_unknown_process_is_refused(capsys):
    assert healthcheck.main(["beat"]) == 2
    assert "web, worker" in capsys.readouterr().err
