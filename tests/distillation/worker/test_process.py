"""The distillation worker between runs: a run whose message was lost is announced again."""

import time

import pytest

from distillation.worker import process
from generation.infra import heartbeat
from tests.distillation.factories import make_run

pytestmark = pytest.mark.django_db(transaction=True)


def test_the_lost_message_of_a_run_is_sent_again(redis_server):
    make_run()
    process.begin()
    try:
        deadline = time.monotonic() + 20
        while not redis_server.llen("distillation"):  # Celery's queue
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        heartbeat.end()
