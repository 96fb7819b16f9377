"""Servers for one command: its exit code is kept, signals reach it, and its folder is removed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from deploy.local.throwaway import PREFIX

ROOT = Path(__file__).resolve().parents[2]
SHOW = "import os, sys; print(os.environ['DATA_DIR'], flush=True); "
LEFT_OUT = ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "DATA_DIR")


def start(code: str, folder: Path) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name not in LEFT_OUT}
    return subprocess.Popen(
        [sys.executable, "-m", "deploy.local", "servers", "--", sys.executable, "-c", SHOW + code],
        cwd=ROOT,
        env={**environment, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_the_command_runs_with_real_servers_and_its_exit_code_is_kept(tmp_path: Path) -> None:
    code = (
        "import psycopg2, redis; psycopg2.connect(os.environ['DATABASE_URL']).close();"
        "client = redis.Redis.from_url(os.environ['REDIS_URL'] + '0'); client.ping(); client.close(); sys.exit(7)"
    )
    with start(code, tmp_path) as process:
        folder = Path(process.communicate()[0].strip()).parent
    assert process.returncode == 7
    assert folder.name.startswith(PREFIX)
    assert not folder.exists()


def test_a_signal_reaches_the_command_and_the_servers_are_gone_afterwards(tmp_path: Path) -> None:
    with start("import time; time.sleep(60)", tmp_path) as process:
        assert process.stdout
        folder = Path(process.stdout.readline().strip()).parent
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert not folder.exists()
