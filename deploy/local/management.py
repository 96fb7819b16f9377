"""`manage.py` on the database and the data of a home, whether its stack runs or not."""

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress

from deploy.local.home import PROJECT, Home
from deploy.local.servers import Servers

# Variable → name in run.json.
OF_FACTS = {
    "DATABASE_URL": "database_url",
    "REDIS_URL": "redis_url",
    "SECRET_KEY": "secret_key",
    "METRICS_TOKEN": "metrics_token",
    "DATA_DIR": "data_dir",
}
# Settings for a terminal.
FOR_PEOPLE = {"LOG_FORMAT": "console", "LOG_LEVEL": "WARNING"}
SCHEMA_MARK = "bootstrapped.json"  # if it is missing, the next start migrates before it serves


def run(home: Home, words: list[str], *, facts: Mapping[str, str]) -> int:
    """Run `manage.py` with these arguments and return its exit code. facts: the running stack's, or empty."""
    command = [sys.executable, "manage.py", *words]
    if facts:
        environment = {**FOR_PEOPLE, **os.environ}
        environment |= {name: facts[fact] for name, fact in OF_FACTS.items()}
        return _finish(command, environment)
    servers = Servers(home, {**FOR_PEOPLE, **os.environ})
    home.lock()
    try:
        servers.prepare()
        servers.start()
        (home.folder / SCHEMA_MARK).unlink(missing_ok=True)
        return _finish(command, servers.environment)
    finally:
        servers.stop()


def _finish(command: list[str], environment: Mapping[str, str]) -> int:
    """Run the command and return its exit code. Ctrl-C, which it receives too, leaves it time to undo its work."""
    process = subprocess.Popen(command, cwd=PROJECT, env=environment)
    while True:
        with suppress(KeyboardInterrupt):
            code = process.wait()
            return code if code >= 0 else 128 - code  # a shell's exit code after a signal
