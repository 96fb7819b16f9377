"""Account for PostgreSQL, which refuses to run as root. No account is created, and no folder opened to others."""

import hashlib
import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.local.errors import LocalError


@dataclass(frozen=True)
class Account:
    """prefix: words before a command. user: an account to switch to, which then owns the data and the programs."""

    prefix: tuple[str, ...] = ()
    user: str | None = None

    def entry(self) -> pwd.struct_passwd:
        return pwd.getpwnam(self.user) if self.user else pwd.getpwuid(os.getuid())

    def own(self, path: Path) -> None:
        """Change the owner of a file to the account, unless it is ours."""
        if self.user:
            os.chown(path, self.entry().pw_uid, self.entry().pw_gid)

    def identity(self) -> dict[str, Any]:
        """Return the arguments for subprocess that switch to the account."""
        if not self.user:
            return {}
        return {
            "user": self.entry().pw_uid,
            "group": self.entry().pw_gid,
            "extra_groups": [],
            "cwd": "/",
        }

    def run(self, command: list[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.prefix, *command],
            capture_output=True,
            text=True,
            check=False,
            **self.identity(),
            **options,
        )


def ordinary() -> pwd.struct_passwd:
    """Return an existing account other than root; initdb looks up its name."""
    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        for entry in pwd.getpwall():
            if entry.pw_uid:
                return entry
    raise LocalError(
        "This machine has only the account root, which PostgreSQL refuses. Set DATABASE_URL."
    )


def for_postgres(folder: Path, binaries: Path) -> Account:
    """Return our account or, as root, a user namespace, whose files stay root's; if that fails, another account."""
    if os.geteuid() != 0:
        return Account()
    entry = ordinary()
    if unshare := shutil.which("unshare"):
        account = Account(
            (unshare, "--user", f"--map-user={entry.pw_uid}", f"--map-group={entry.pw_gid}")
        )
        # In the namespace root has no special permissions: it must be able to use the programs and the folder.
        writable = account.run(["test", "-w", folder]).returncode == 0
        if writable and account.run([binaries / "postgres", "--version"]).returncode == 0:
            return account
    return Account(user=entry.pw_name)


def place_for(account: Account, folder: Path, binaries: Path) -> tuple[Path, Path]:
    """Return (data folder, folder of the programs) that the account can use. folder: the preferred data folder."""
    if not account.user:
        return folder, binaries
    entry = account.entry()
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    theirs = Path("/var/tmp") / f"retort-{name}"
    theirs.mkdir(mode=0o700, exist_ok=True)
    if theirs.is_symlink() or theirs.stat().st_uid not in (0, entry.pw_uid):
        raise LocalError(f"{theirs} belongs to another account. Remove it, or set DATABASE_URL.")
    os.chown(theirs, entry.pw_uid, entry.pw_gid)
    if account.run([binaries / "postgres", "--version"]).returncode != 0:
        copy = theirs / "programs"
        if not (copy / "bin" / "postgres").is_file():
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(binaries.parent, theirs / "programs.new", dirs_exist_ok=True)
            for path in (theirs / "programs.new", *(theirs / "programs.new").rglob("*")):
                os.chown(path, entry.pw_uid, entry.pw_gid, follow_symlinks=False)
            (theirs / "programs.new").rename(copy)
        binaries = copy / "bin"
    return theirs / "postgres", binaries
