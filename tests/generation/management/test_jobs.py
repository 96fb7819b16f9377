"""`manage.py jobs retry`."""

import io

import pytest
from django.core.management import CommandError, call_command

from generation.models import Job
from tests.factories import make_job

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command("jobs", "retry", *arguments, stdout=out, stderr=io.StringIO())
    return out.getvalue().strip()


def test_jobs_that_failed_with_one_code_are_counted_then_queued_again():
    wanted = [make_job(status="failed", error_code="worker_lost").id for _ in range(3)]
    make_job(status="failed")

    assert run("--code", "worker_lost", "--dry-run") == "3 jobs would be queued again."
    assert run("--code", "worker_lost", "--until", "2020-01-01T00:00") == "0 jobs are queued again."
    assert run("--code", "worker_lost", "--since", "2020-01-01") == "3 jobs are queued again."
    assert set(Job.objects.filter(status="queued").values_list("id", flat=True)) == set(wanted)


def test_all_jobs_are_retried_only_with_the_option_all():
    make_job(status="failed")
    with pytest.raises(CommandError, match="--all"):
        run()
    with pytest.raises(CommandError, match="such as 2026"):
        run("--since", "yesterday")
    assert run("--all") == "1 job is queued again."
