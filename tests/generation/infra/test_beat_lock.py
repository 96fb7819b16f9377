"""The lock that allows only one beat, with real processes and a real Redis."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from django.conf import settings

from generation.infra import beat_lock

HOLD = """
import django, time
django.setup()
from generation.infra import beat_lock
beat_lock.LOCK_SECONDS, beat_lock.POLL_SECONDS = 1.5, 0.2
beat_lock.acquire()
print("held", flush=True)
for _ in range(1000):
    beat_lock.keep()
    time.sleep(0.1)
"""


@pytest.fixture
def beats(redis_server) -> Iterator[list["subprocess.Popen[str]"]]:
    """Two processes that acquire the lock. The first one holds it."""
    env = {
        **os.environ,
        "REDIS_URL": settings.REDIS_URL,
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "LOG_FORMAT": "json",
    }
    found = []
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", HOLD], env=env, cwd=settings.BASE_DIR, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        found.append(process)
        wait_for_output(process, "beat_standby" if len(found) == 2 else "held")
    yield found
    for process in found:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()


def wait_for_output(process: "subprocess.Popen[str]", words: str) -> None:
    assert process.stdout
    for line in process.stdout:
        if words in line:
            return
    pytest.fail(f"it ended without {words}")


def test_a_second_beat_waits_until_the_first_is_killed(beats):
    time.sleep(2)  # longer than the lock's expiry: the lock is renewed
    first, second = beats
    assert second.poll() is None
    first.kill()
    wait_for_output(second, "held")


@pytest.mark.slow
def test_a_lock_lost_by_redis_is_acquired_again_by_one_of_them(beats, redis_server):
    redis_server.delete(beat_lock.NAME)
    deadline = time.monotonic() + 20
    while not redis_server.exists(beat_lock.NAME):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_a_beat_that_was_suspended_while_another_took_over_ends(beats):
    first, second = beats
    first.send_signal(signal.SIGSTOP)
    wait_for_output(second, "held")
    first.send_signal(signal.SIGCONT)
    wait_for_output(first, "beat_lock_lost")
    assert first.wait(20) == beat_lock.EXIT_LOST
