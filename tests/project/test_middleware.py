"""Hosts: only the paths for operators answer under a name that is not in ALLOWED_HOSTS."""

import pytest
from django.test import Client

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_server")]


@pytest.mark.parametrize(
    ("path", "status"),
    [("/health/ready", 503), ("/metrics", 401), ("/login", 400), ("/v1/jobs", 400)],
)
def test_only_paths_for_operators_answer_under_any_host(settings, path: str, status: int) -> None:
    settings.ALLOWED_HOSTS, settings.METRICS_TOKEN = ["retort.example.org"], "token"
    for host in ("10.1.2.3:8000", "web:8000"):
        assert Client(headers={"host": host}).get(path).status_code == status
