"""A backup is restored into another database and data folder: real pg_dump, real pg_restore, real files."""

import hashlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from generation.access import audit
from generation.engine import temporary_folders
from generation.images import storage
from generation.models import Image, Job, PromptVariant, Release
from generation.releases import lifecycle
from project.maintenance import archive, backup, programs
from project.maintenance.errors import MaintenanceError, ProgramMissing
from tests.factories import make_image, make_job, make_variant, make_worker
from tests.tiny import make_tiny_release
from tests.web import ROOT, database_url

SCHEMAS = "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_|information_schema'"

pytestmark = pytest.mark.django_db(transaction=True)


@dataclass
class Installation:
    """A separate database on the server of the tests, and a data folder."""

    url: str
    data: Path

    def manage(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "manage.py", *words],
            cwd=ROOT,
            env={**os.environ, "DATABASE_URL": self.url, "DATA_DIR": str(self.data)},
            capture_output=True,
            text=True,
        )

    def begin(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a command in a process group of its own."""
        command = [sys.executable, "manage.py", *words]
        environment = {**os.environ, "DATABASE_URL": self.url, "DATA_DIR": str(self.data)}
        return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        connection = psycopg2.connect(self.url)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Installation]:
    name = f"restored_{uuid.uuid4().hex[:12]}"
    server = psycopg2.connect(database_url())
    server.autocommit = True
    with server.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
    yield Installation(database_url().rsplit("/", 1)[0] + f"/{name}", tmp_path / "elsewhere")
    with server.cursor() as cursor:
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
    server.close()


@pytest.fixture
def written(settings, tmp_path: Path) -> Path:
    """The archive of an installation with a variant, a registered release, an image and files that are left out."""
    source = tmp_path / "tiny"
    make_tiny_release(source, name="restored", kind="student")
    release = lifecycle.register(source)
    make_variant(slug="a-red-vase")
    image = make_image(job=make_job(release=release, status=Job.Status.SUCCEEDED))
    root = Path(settings.DATA_DIR)
    for name in ("distillation/stage/net.bin", "distillation/reports/restored/report.md"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    thumbnail = Path(settings.MEDIA_ROOT) / storage.thumbnail_name(image.file)
    thumbnail.parent.mkdir(parents=True, exist_ok=True)
    thumbnail.write_bytes(b"made again")
    file = tmp_path / "retort.tar"
    call_command("backup", str(file))
    return file


def test_a_backup_is_restored_into_an_empty_database_and_folder(written: Path, other):
    image_file = Image.objects.get().file
    assert written.stat().st_mode & 0o077 == 0
    done = other.manage("restore", str(written))
    assert done.returncode == 0, done.stderr
    assert other.query("SELECT slug FROM generation_promptvariant WHERE slug = 'a-red-vase'")
    ((path,),) = other.query("SELECT path FROM generation_release WHERE name = 'restored'")
    assert path == str(other.data / "releases" / "restored")
    assert {file.name for file in Path(path).iterdir()} >= {"release.json"}
    stored = (other.data / "media" / image_file).read_bytes()
    assert hashlib.sha256(stored).hexdigest() in image_file
    assert (other.data / "distillation/reports/restored/report.md").is_file()
    left_out = ("distillation/stage", "media/thumbnails")
    assert not any((other.data / name).exists() for name in left_out)
    assert [path.name for path in other.data.iterdir() if path.name.startswith(".")] == []
    with written.open("rb") as file:
        made_at = archive.unpack(file, None).made_at
    entries = (
        "SELECT action, detail->>'made_at' FROM generation_auditentry WHERE action LIKE 'backup%'"
    )
    assert other.query(entries) == [("backup_restored", made_at)]
    begun = audit.last_backup()
    assert begun and abs(begun - datetime.fromisoformat(made_at)) < timedelta(minutes=1)
    # The current code works on it.
    checked = other.manage("migrate", "--check")
    assert checked.returncode == 0, checked.stderr


def test_training_is_in_the_archive_on_request(written: Path, tmp_path: Path):
    file = tmp_path / "with.tar"
    call_command("backup", str(file), "--with-training")
    with tarfile.open(file) as tar, tarfile.open(written) as without:
        names = set(tar.getnames())
        assert names - set(without.getnames()) == {"data/distillation/stage/net.bin"}
    assert not [name for name in names if "thumbnails" in name]


@pytest.mark.slow
def test_a_database_that_is_not_empty_is_refused_unless_it_is_to_be_replaced(written: Path, other):
    assert other.manage("restore", str(written)).returncode == 0
    other.query("UPDATE generation_promptvariant SET text = 'another'")
    other.query("CREATE TABLE of_a_newer_revision (id int)")
    refused = other.manage("restore", str(written))
    assert refused.returncode == 1 and "not empty" in refused.stderr
    assert other.query("SELECT DISTINCT text FROM generation_promptvariant") == [("another",)]
    done = other.manage("restore", str(written), "--replace")
    assert done.returncode == 0, done.stderr
    assert other.query("SELECT 1 FROM generation_promptvariant WHERE text = 'another'") == []
    assert other.query("SELECT 1 FROM pg_tables WHERE tablename = 'of_a_newer_revision'") == []
    assert other.query(SCHEMAS) == [("public",)]


def test_nothing_is_restored_while_workers_use_the_database(written: Path, tmp_path: Path):
    make_worker(name="busy")
    with pytest.raises(CommandError, match="Workers use this database: busy"):
        call_command("restore", str(written), "--replace")


@pytest.mark.slow
def test_a_damaged_archive_is_refused_and_changes_nothing(written: Path, other):
    content = bytearray(written.read_bytes())
    place = content.index(b"PGDMP") + 200
    content[place] ^= 0xFF
    damaged = written.with_name("damaged.tar")
    damaged.write_bytes(content)
    for words in (("--verify",), ()):
        refused = other.manage("restore", str(damaged), *words)
        assert refused.returncode == 1
        assert "do not match their hashes, such as database.dump" in refused.stderr
    cut = written.with_name("cut.tar")
    cut.write_bytes(written.read_bytes()[: written.stat().st_size // 2])
    assert other.manage("restore", str(cut)).returncode == 1
    assert other.query("SELECT 1 FROM pg_tables WHERE schemaname = 'public'") == []
    assert not list(other.data.rglob("*.dump"))


def test_an_archive_is_verified_without_a_change(written: Path, capsys):
    call_command("restore", str(written), "--verify")
    assert "is complete and undamaged" in capsys.readouterr().out
    assert PromptVariant.objects.filter(slug="a-red-vase").exists()


@pytest.mark.slow
def test_a_dump_that_cannot_be_restored_keeps_the_previous_tables(written: Path, other, tmp_path):
    assert other.manage("restore", str(written)).returncode == 0
    broken = tmp_path / "broken.tar"
    with tarfile.open(written) as tar, broken.open("wb") as out:
        writer = archive.Writer(out)
        facts = tar.extractfile("backup.json")
        assert facts is not None
        writer.add_content("backup.json", facts.read())
        writer.add_content("database.dump", b"no dump")
        writer.close()
    done = other.manage("restore", str(broken), "--replace")
    assert done.returncode == 1 and "pg_restore failed" in done.stderr
    assert other.query("SELECT 1 FROM generation_promptvariant WHERE slug = 'a-red-vase'")


def test_files_that_cannot_be_moved_keep_the_previous_tables(written: Path, other):
    other.query("CREATE TABLE of_before AS SELECT 1")
    other.data.mkdir()
    (other.data / "releases").write_text("a file where a folder must be")
    done = other.manage("restore", str(written), "--replace")
    assert done.returncode == 1 and "releases" in done.stderr
    assert other.query("SELECT * FROM of_before") == [(1,)]
    assert other.query(SCHEMAS) == [("public",)]


@pytest.mark.slow
def test_a_restoration_that_was_killed_while_it_moved_files_can_be_repeated(written: Path, other):
    other.query("CREATE SCHEMA before_restore; CREATE TABLE before_restore.of_before AS SELECT 1")
    other.query("CREATE TABLE restored AS SELECT 1")  # the state in which it was killed
    refused = other.manage("bootstrap")
    assert refused.returncode == 1 and "was interrupted" in refused.stderr
    other.data.mkdir()
    (other.data / "releases").write_text("a file where a folder must be")
    assert other.manage("restore", str(written), "--replace").returncode == 1
    assert other.query("SELECT * FROM of_before") == [(1,)]
    (other.data / "releases").unlink()
    assert other.manage("restore", str(written), "--replace").returncode == 0
    assert other.query("SELECT 1 FROM generation_promptvariant WHERE slug = 'a-red-vase'")
    assert other.query(SCHEMAS) == [("public",)]


@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.slow
def test_an_interrupted_restoration_loses_no_previous_table(written: Path, other, ended_by):
    other.query("CREATE TABLE of_before AS SELECT 1")
    holder = psycopg2.connect(other.url)
    with holder.cursor() as cursor:
        cursor.execute("LOCK TABLE pg_class IN SHARE MODE")  # pg_restore waits at its first table
        restoring = other.begin("restore", str(written), "--replace")
        while not other.query("SELECT 1 FROM pg_namespace WHERE nspname = 'before_restore'"):
            assert restoring.poll() is None
            time.sleep(0.05)
        os.killpg(restoring.pid, ended_by)
        holder.rollback()
        restoring.wait()
    holder.close()
    again = other.manage("restore", str(written))
    assert again.returncode == 1 and "not empty" in again.stderr
    assert other.query("SELECT * FROM of_before") == [(1,)]
    assert [name for (name,) in other.query(SCHEMAS)] == ["public"]


def test_files_of_killed_commands_are_removed_by_the_next_one(settings, tmp_path: Path):
    for root in (Path(settings.DATA_DIR), tmp_path):
        killed = root / f"{temporary_folders.PREFIX}killed"
        killed.mkdir(parents=True)
        (killed / temporary_folders.LOCK).touch()
        os.utime(killed, (0, 0))
    call_command("backup", str(tmp_path / "retort.tar"))
    assert not list(Path(settings.DATA_DIR).iterdir())
    assert not list(tmp_path.glob(".*"))


def test_a_backup_into_a_folder_that_does_not_exist_is_refused(tmp_path: Path):
    with pytest.raises(CommandError, match="is not a folder"):
        call_command("backup", str(tmp_path / "not-mounted" / "retort.tar"))
    assert not list(tmp_path.iterdir())


def test_a_member_outside_of_the_data_folder_is_refused(tmp_path: Path):
    out = io.BytesIO()
    writer = archive.Writer(out)
    writer.add_content("data/../../etc/passwd", b"x")
    writer.close()
    out.seek(0)
    with pytest.raises(archive.ArchiveInvalid, match="does not belong in a backup"):
        archive.unpack(out, tmp_path / "unpacked")


def test_an_archive_of_a_newer_revision_is_refused(written: Path, monkeypatch):
    from project.maintenance import restoration

    monkeypatch.setattr(restoration, "OURS", ("django_celery_beat.", "generation.", "of_tomorrow."))
    monkeypatch.setattr(
        restoration.MigrationLoader, "load_disk", lambda self: setattr(self, "disk_migrations", {})
    )
    with pytest.raises(CommandError, match="newer code"):
        call_command("restore", str(written), "--verify")


@pytest.mark.parametrize("name", [b"caf\xe9.jpg", "a\u2028b.jpg".encode()])
def test_a_file_name_of_any_bytes_is_archived(tmp_path: Path, name: bytes):
    file = tmp_path / os.fsdecode(name)
    file.write_bytes(b"picture")
    out = io.BytesIO()
    writer = archive.Writer(out)
    facts = archive.Facts("now", "0", 18, [], str(tmp_path), has_images=True)
    writer.add_content("backup.json", archive.facts_content(facts))
    writer.add_file(f"data/{file.name}", file)
    writer.add_content("database.dump", b"dump")
    writer.close()
    out.seek(0)
    archive.unpack(out, tmp_path / "unpacked")
    assert (tmp_path / "unpacked" / "data" / file.name).read_bytes() == b"picture"


def test_a_file_name_with_a_line_break_is_refused(tmp_path: Path):
    with pytest.raises(MaintenanceError, match="has a line break"):
        archive.Writer(io.BytesIO()).add_file("data/two\nlines", tmp_path / "two\nlines")


def test_a_file_that_is_replaced_during_a_backup_is_archived_as_it_was(tmp_path: Path):
    file, ended = tmp_path / "file", threading.Event()
    file.write_bytes(b"")

    def replace() -> None:
        while not ended.is_set():
            for content in (b"long" * 20_000, b"short"):
                (tmp_path / "next").write_bytes(content)
                os.replace(tmp_path / "next", file)

    replacing = threading.Thread(target=replace)
    replacing.start()
    try:
        writer = archive.Writer(io.BytesIO())
        for number in range(2000):
            writer.add_file(f"data/{number}", file)
        writer.close()
    finally:
        ended.set()
        replacing.join()


def test_special_files_are_left_out_of_a_backup_and_a_loop_of_links_ends(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "picture").write_bytes(b"picture")
    (tmp_path / "again").symlink_to(tmp_path / "folder")
    (tmp_path / "folder" / "above").symlink_to(tmp_path)
    (tmp_path / "folder" / "gone").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "folder" / "pipe")
    found = backup._files(tmp_path, with_training=False)
    assert list(found) == [tmp_path / name / "picture" for name in ("again", "folder")]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another account")
def test_a_folder_that_cannot_be_read_is_not_left_out_silently():
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "media").mkdir(mode=0o700)
        (root / "lost+found").mkdir(mode=0o700)  # created by the file system
        root.chmod(0o755)
        os.seteuid(65534)
        try:
            with pytest.raises(MaintenanceError, match="media cannot be read: Permission denied"):
                list(backup._files(root, with_training=False))
        finally:
            os.seteuid(0)
        (root / "media").chmod(0o755)
        os.seteuid(65534)
        try:
            assert list(backup._files(root, with_training=False)) == []
        finally:
            os.seteuid(0)


@pytest.mark.slow
def test_a_folder_of_the_data_may_be_on_another_disk(written: Path, other, tmp_path: Path):
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one file system only")
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        other.data.mkdir()
        (other.data / "media").symlink_to(folder)
        done = other.manage("restore", str(written))
        assert done.returncode == 0, done.stderr
        assert (other.data / "media" / Image.objects.get().file).is_file()


def test_an_existing_file_is_never_overwritten(written: Path):
    before = written.read_bytes()
    with pytest.raises(CommandError, match="exists"):
        call_command("backup", str(written))
    assert written.read_bytes() == before
    assert Release.objects.filter(name="restored").exists()


def test_a_backup_in_the_data_folder_is_refused(settings, tmp_path: Path):
    root = Path(settings.DATA_DIR)
    (root / "backups").mkdir(parents=True)
    (tmp_path / "link").symlink_to(root)
    for file in (root / "backups" / "retort.tar", tmp_path / "link" / "retort.tar"):
        with pytest.raises(CommandError, match=r"is in the data folder.* Name a file elsewhere"):
            call_command("backup", str(file))
    assert [path for path in root.rglob("*") if path.is_file()] == []


def test_a_missing_program_is_named_with_what_to_install():
    with pytest.raises(ProgramMissing, match="postgresql-client-999"):
        programs.find("pg_dump", 999)
