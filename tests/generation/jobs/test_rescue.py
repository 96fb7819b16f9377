"""Rescue of jobs whose lease ran out."""

from datetime import timedelta

import pytest
from django.db import OperationalError, connection, transaction
from django.utils import timezone

from generation.jobs.rescue import Rescuer
from generation.models import Job
from tests.factories import make_job

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def lost() -> Job:
    """A running job whose lease ran out."""
    ended = timezone.now() - timedelta(seconds=1)
    return make_job(status="running", lease_expires_at=ended)


def test_after_an_outage_the_workers_get_time_to_renew_their_leases(lost, settings):
    settings.LEASE_SECONDS = 20
    now = 0.0
    rescuer = Rescuer(clock=lambda: now)
    assert rescuer.rescue() == 1
    Job.objects.update(status="running", lease_expires_at=timezone.now() - timedelta(seconds=1))

    now = 60.0  # the sweeps in between failed
    assert rescuer.rescue() == 0
    now = 65.0
    assert rescuer.rescue() == 0
    now = 71.0
    assert rescuer.rescue() == 1


def test_a_time_in_which_postgresql_accepted_no_writes_is_an_outage_too(lost, settings):
    settings.LEASE_SECONDS = 20
    now = 0.0
    rescuer = Rescuer(clock=lambda: now)
    assert rescuer.rescue() == 1
    Job.objects.update(status="running", lease_expires_at=timezone.now() - timedelta(seconds=1))

    for seconds in range(5, 30, 5):
        now = float(seconds)
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION READ ONLY")
            assert rescuer.rescue() == 0
    for seconds in (31, 36):
        now = float(seconds)
        assert rescuer.rescue() == 0
    now = 41.0
    assert rescuer.rescue() == 1


def test_a_full_disk_is_an_outage_too(lost, settings):
    settings.LEASE_SECONDS = 20
    now = 0.0
    rescuer = Rescuer(clock=lambda: now)
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = '53100'; END $$;"
            "CREATE TRIGGER refuse BEFORE UPDATE ON generation_job EXECUTE FUNCTION refuse()"
        )
        try:
            for seconds in (0, 5, 10):  # workers cannot renew their leases meanwhile
                now = float(seconds)
                with pytest.raises(OperationalError):
                    rescuer.rescue()
        finally:
            cursor.execute("DROP FUNCTION refuse CASCADE")

    now = 15.0
    assert rescuer.rescue() == 0
    lost.refresh_from_db()
    assert lost.lease_expires_at > timezone.now() + timedelta(seconds=5)
    Job.objects.update(lease_expires_at=timezone.now() - timedelta(seconds=1))
    now = 20.0
    assert rescuer.rescue() == 1


def test_regular_sweeps_rescue_at_once(lost):
    now = 0.0
    rescuer = Rescuer(clock=lambda: now)
    for now in range(0, 60, 5):
        assert rescuer.rescue() == (now == 0)
