"""Restoration of a backup. The whole archive is unpacked and verified before anything changes."""

import errno
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import redis
from django.conf import settings
from django.db import connection, transaction
from django.db.migrations.loader import MigrationLoader

from generation.access import audit
from generation.engine import release as release_format
from generation.engine import temporary_folders
from generation.engine.errors import ReleaseInvalid
from generation.infra import database, redis_client
from generation.infra.database import BEFORE_RESTORE
from project.maintenance import archive, programs
from project.maintenance.archive import DATA, DUMP, Facts
from project.maintenance.errors import ArchiveInvalid, NotEmpty

# Columns that may hold paths below the data folder.
PATHS = (
    ("generation_release", "path"),
    ("distillation_detector", "path"),
    ("distillation_imagesource", "url"),
)
OURS = ("generation.", "distillation.")  # migrations of these apps
NAMES_AT_ONCE = 5000
CACHED_IMAGES = "retort:image*"  # keys in Redis; the restored database may lack their images


@dataclass
class Outcome:
    """Result of a restoration. faults: sentences about rows whose files are missing."""

    facts: Facts
    files: int = 0
    images: int = 0
    releases: int = 0
    faults: list[str] = field(default_factory=list)


def verify(source: IO[bytes]) -> Facts:
    """Compare every file of the archive with its hash and return the facts. Raises ArchiveInvalid."""
    facts = archive.unpack(source, None)
    _refuse_newer(facts)
    return facts


def restore(source: IO[bytes], *, replace: bool) -> Outcome:
    """Restore the database and the data folder. replace: overwrite the database's content. Raises MaintenanceError."""
    _undo_killed()
    _refuse_in_use(replace=replace)
    root = Path(settings.DATA_DIR)
    with temporary_folders.create(root) as unpacked:
        facts = archive.unpack(source, unpacked)
        _refuse_newer(facts)
        _set_aside()
        try:
            _restore_database(unpacked / DUMP)
            outcome = Outcome(facts, files=_move(unpacked / DATA, root))
            _move_paths(facts.data_dir, str(root))
        except BaseException:
            _put_back()
            raise
    with connection.cursor() as cursor:
        cursor.execute(f"DROP SCHEMA {BEFORE_RESTORE} CASCADE")
    audit.record_backup(audit.BACKUP_RESTORED, f"Retort {facts.retort}", made_at=facts.made_at)
    _forget_cache(outcome)
    _compare_releases(outcome)
    if facts.has_images and not settings.S3_BUCKET:
        _compare_images(outcome)
    return outcome


def _refuse_newer(facts: Facts) -> None:
    known = {f"{app}.{name}" for app, name in MigrationLoader(None).disk_migrations}
    ours = [name for name in facts.migrations if name.startswith(OURS)]
    newer = [name for name in ours if name not in known]
    if newer:
        raise ArchiveInvalid(
            f"The archive was made by newer code, with the migration {newer[0]}. Restore it with that code."
        )


def _refuse_in_use(*, replace: bool) -> None:
    tables = _tables()
    with connection.cursor() as cursor:
        if "generation_worker" in tables:
            cursor.execute(
                "SELECT name FROM generation_worker WHERE heartbeat_at > now() - %s * interval '1 second'",
                [settings.WORKER_STALE_SECONDS],
            )
            if working := [name for (name,) in cursor.fetchall()]:
                raise NotEmpty(
                    f"Workers use this database: {', '.join(working[:5])}. Stop all processes first."
                )
    if tables and not replace:
        raise NotEmpty(
            "The database is not empty. Restore into an empty one, or give --replace, which removes its content."
        )


def _tables() -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return {name for (name,) in cursor.fetchall()}


def _set_aside() -> None:
    """Make `public` empty. The previous tables are kept until the restoration has succeeded.

    After a restoration that was killed they are those of before that restoration.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        if database.is_being_restored():
            cursor.execute("DROP SCHEMA public CASCADE")
        else:
            cursor.execute(f"ALTER SCHEMA public RENAME TO {BEFORE_RESTORE}")
        cursor.execute("CREATE SCHEMA public")


def _restore_database(dump: Path) -> None:
    programs.run(
        "pg_restore", "--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction",
        "--schema=public", dump,
    )  # fmt: skip


def _put_back() -> None:
    """Replace the tables in `public` by the previous ones."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("DROP SCHEMA public CASCADE")
        cursor.execute(f"ALTER SCHEMA {BEFORE_RESTORE} RENAME TO public")


def _undo_killed() -> None:
    """Put back what a restoration that was killed set aside.

    If `public` has tables, restored or new ones, both stay until a restoration with --replace.
    """
    if database.is_being_restored() and not _tables():
        _put_back()


def _move(unpacked: Path, root: Path) -> int:
    """Move the unpacked files to the data folder, overwriting files of the same name. Return how many."""
    moved = 0
    for folder, _, names in os.walk(unpacked):
        target = root / Path(folder).relative_to(unpacked)
        target.mkdir(parents=True, exist_ok=True)
        for name in names:
            try:
                os.replace(Path(folder) / name, target / name)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                shutil.copyfile(Path(folder) / name, target / name)  # the folder is on another disk
            moved += 1
    return moved


def _move_paths(before: str, now: str) -> None:
    """Rewrite paths in rows from the data folder of the backup's installation to ours."""
    if before == now:
        return
    with transaction.atomic(), connection.cursor() as cursor:
        for table, column in PATHS:
            cursor.execute(
                f"UPDATE {table} SET {column} = %s || substr({column}, %s) WHERE starts_with({column}, %s)",
                [now, len(before) + 1, before + "/"],
            )


def _forget_cache(outcome: Outcome) -> None:
    try:
        client = redis_client.client()
        for key in client.scan_iter(CACHED_IMAGES, count=1000):
            client.delete(key)
    except redis.RedisError as error:
        outcome.faults.append(
            f"Redis does not answer ({error}). Flush it before you start: its cache may name images that are gone."
        )


def _compare_releases(outcome: Outcome) -> None:
    """Compare names and sizes of all releases' files; their hashes were compared with the archive's."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, path FROM generation_release ORDER BY name")
        rows = cursor.fetchall()
    for name, path in rows:
        outcome.releases += 1
        try:
            release_format.verify(Path(settings.BASE_DIR) / path, hashes=False)
        except ReleaseInvalid as error:
            outcome.faults.append(f"Release {name}: {error.detail}")


def _compare_images(outcome: Outcome) -> None:
    missing: list[str] = []
    for column in ("file", "master"):
        last = ""
        while names := _next_names(column, last):
            last = names[-1]
            outcome.images += len(names) if column == "file" else 0
            missing += [name for name in names if not (Path(settings.MEDIA_ROOT) / name).is_file()]
    if missing:
        outcome.faults.append(
            f"{len(missing)} image files are missing, such as {missing[0]}. They are made again on request."
        )


def _next_names(column: str, last: str) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT DISTINCT {column} FROM generation_image WHERE {column} > %s ORDER BY 1 LIMIT %s",
            [last, NAMES_AT_ONCE],
        )
        return [name for (name,) in cursor.fetchall()]
