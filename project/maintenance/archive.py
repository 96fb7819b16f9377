"""The archive of a backup: a tar file that is written and read as a stream.

backup.json      facts: format version, time, software versions, migrations, path of the data folder
data/…           files of the data folder
database.dump    pg_dump's custom format
SHA256SUMS       written last, as `sha256sum` does: an archive without it is incomplete

A name may have any bytes except a line break.
"""

import hashlib
import io
import json
import os
import tarfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from project.maintenance.errors import ArchiveInvalid, MaintenanceError

FORMAT_VERSION = 1
FACTS, DUMP, SUMS, DATA = "backup.json", "database.dump", "SHA256SUMS", "data/"
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Facts:
    """migrations: applied ones, as "app.name". data_dir: of the installation; rows may contain paths below it."""

    made_at: str
    retort: str
    postgresql: int
    migrations: list[str]
    data_dir: str
    has_images: bool
    format_version: int = FORMAT_VERSION


class _Hashing:
    """Reader of a file that hashes what it reads."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        self.digest.update(content)
        return content


class Writer:
    """Writes an archive. `close` completes it."""

    def __init__(self, out: IO[bytes]) -> None:
        self._tar = tarfile.open(fileobj=out, mode="w|", bufsize=CHUNK_BYTES)  # noqa: SIM115 - closed by close
        self._sums: list[str] = []
        self.files = self.size_bytes = 0

    def add_content(self, name: str, content: bytes) -> None:
        self._add(name, io.BytesIO(content), len(content))

    def add_file(self, name: str, path: Path) -> None:
        """Add a file, unless it has been removed in the meantime."""
        if "\n" in name:
            raise MaintenanceError(f"The name of {str(path)!r} has a line break. Rename the file.")
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return
        with file:
            try:
                # Size of the opened file: another file may have its name now.
                self._add(name, file, os.fstat(file.fileno()).st_size)
            except OSError as error:
                raise MaintenanceError(f"{path} could not be read or written: {error}.") from error

    def _add(self, name: str, file: IO[bytes], size: int) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode, member.mtime = size, 0o644, int(time.time())
        reader = _Hashing(file)
        self._tar.addfile(member, reader)
        self._sums.append(f"{reader.digest.hexdigest()}  {name}\n")
        self.files += 1
        self.size_bytes += size

    def abandon(self) -> None:
        """Close the file after an error; the archive stays incomplete."""
        with suppress(OSError, ValueError):
            self._tar.close()

    def close(self) -> None:
        """Complete the archive."""
        sums = os.fsencode("".join(self._sums))
        member = tarfile.TarInfo(SUMS)
        member.size, member.mode = len(sums), 0o644
        self._tar.addfile(member, io.BytesIO(sums))
        self._tar.close()


def facts_content(facts: Facts) -> bytes:
    return json.dumps(asdict(facts), indent=2).encode() + b"\n"


def unpack(source: IO[bytes], folder: Path | None) -> Facts:
    """Compare every file of the archive with its hash, write it below `folder` unless that is None, return the facts.

    Raises ArchiveInvalid.
    """
    seen: dict[str, str] = {}
    facts: Facts | None = None
    listed: dict[str, str] | None = None
    try:
        with tarfile.open(fileobj=source, mode="r|*", bufsize=CHUNK_BYTES) as tar:
            for name, member in _members(tar):
                if name == SUMS:
                    listed = _sums(os.fsdecode(member.read()))
                    continue
                kept = io.BytesIO() if name == FACTS else None
                seen[name] = _copy(member, None if folder is None else folder / name, kept)
                if kept is not None:
                    facts = _facts(kept.getvalue())
    except (tarfile.TarError, EOFError, UnicodeDecodeError) as error:
        raise ArchiveInvalid(f"The archive cannot be read: {error}. Use another copy.") from error
    if facts is None or listed is None or DUMP not in seen:
        raise ArchiveInvalid("The archive is incomplete or not a backup of Retort. Use another.")
    wrong = sorted(
        name for name in seen.keys() | listed.keys() if seen.get(name) != listed.get(name)
    )
    if wrong:
        raise ArchiveInvalid(
            f"{len(wrong)} of the archive's files do not match their hashes, such as {wrong[0]}. Use another copy."
        )
    return facts


def _members(tar: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes]]]:
    for member in tar:
        place = PurePosixPath(member.name)
        is_ours = member.name in (FACTS, DUMP, SUMS) or member.name.startswith(DATA)
        if not (member.isfile() and is_ours) or place.is_absolute() or ".." in place.parts:
            raise ArchiveInvalid(
                f"The archive has {member.name!r}, which does not belong in a backup."
            )
        content = tar.extractfile(member)
        if content is not None:
            yield member.name, content


def _copy(member: IO[bytes], target: Path | None, kept: IO[bytes] | None) -> str:
    """Write a member's content to the target and return its hash."""
    digest = hashlib.sha256()
    out: IO[bytes] | None = None
    try:
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            out = target.open("wb")
        while chunk := member.read(CHUNK_BYTES):
            digest.update(chunk)
            for place in (out, kept):
                if place is not None:
                    place.write(chunk)
    finally:
        if out is not None:
            out.close()
    return digest.hexdigest()


def _sums(text: str) -> dict[str, str]:
    rows = (line.split("  ", 1) for line in text.split("\n"))
    return {row[1]: row[0] for row in rows if len(row) == 2}


def _facts(content: bytes) -> Facts:
    try:
        found: Any = json.loads(content)
        version = found.get("format_version")
        if version != FORMAT_VERSION:
            raise ArchiveInvalid(
                f"The archive has format version {version}; this code reads {FORMAT_VERSION}."
            )
        return Facts(**found)
    except (ValueError, TypeError, AttributeError) as error:
        raise ArchiveInvalid(f"{FACTS} in the archive cannot be read: {error}.") from error
