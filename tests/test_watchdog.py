"""The watchdog ends a process whose event loop is blocked, and not one that was suspended for a while."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.web import ROOT, eventually

PROCESS = """
import asyncio, sys, time
import django
django.setup()
from project.bridge import Bridge
from project.watchdog import Watchdog

async def run():
    Watchdog(Bridge(None, threads=1)).start()
    print("runs", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    print("stands still", flush=True)
    time.sleep(600)

asyncio.run(run())
"""


@pytest.mark.slow
def test_a_blocked_event_loop_ends_the_process_and_a_suspended_process_continues():
    environment = {"DJANGO_SETTINGS_MODULE": "project.settings", "WEB_STUCK_SECONDS": "3"}
    with subprocess.Popen(
        [sys.executable, "-c", PROCESS], env={**os.environ, **environment}, cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin and process.stdout and process.stderr
        assert process.stdout.readline() == "runs\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(4)
        process.send_signal(signal.SIGCONT)
        time.sleep(1)
        assert process.poll() is None

        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "stands still\n"
        eventually(lambda: process.poll() is not None)
        assert process.returncode == 70
        errors = process.stderr.read()
        assert "web_stuck" in errors and "time.sleep" not in errors and "in run" in errors
