"""The private servers: created, started, stopped, and recovered from any state that a killed launcher left."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest
import redis

from deploy.local import binaries, ports
from deploy.local.errors import LocalError, ServerMissing
from deploy.local.postgresql import PostgreSQL, wait_until
from deploy.local.redis import Redis, answers


def make_postgres(folder: Path, *, password: str = "one", port: int | None = None) -> PostgreSQL:
    return PostgreSQL(folder, port=port or ports.pick(), password=password, throw_away=True)


@contextmanager
def running(server: PostgreSQL | Redis) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        server.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        assert wait_until(lambda: process.poll() is not None or server.is_ready(), 60)
        assert process.poll() is None, "the server ended instead of starting"
        yield process
    finally:
        process.kill()
        process.wait()


def count_databases(server: PostgreSQL) -> int:
    connection = psycopg2.connect(server.url)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_database WHERE datname = 'retort'")
            return cursor.fetchone()[0]
    finally:
        connection.close()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PostgreSQL data folder below a path with a space."""
    folder = tmp_path_factory.mktemp("with space") / "postgres"
    make_postgres(folder).prepare()
    return folder


def test_postgres_accepts_connections_with_the_password_only(prepared: Path) -> None:
    server = make_postgres(prepared)
    server.prepare()
    with running(server):
        assert count_databases(server) == 1
        with pytest.raises(psycopg2.OperationalError, match="password"):
            psycopg2.connect(server.url.replace(":one@", ":two@"))


def test_postgres_accepts_a_new_password_after_the_secrets_were_lost(prepared: Path) -> None:
    server = make_postgres(prepared, password="another")
    server.prepare()
    with running(server):
        assert count_databases(server) == 1
    make_postgres(prepared).prepare()


def test_an_incomplete_data_folder_is_created_again(tmp_path: Path) -> None:
    unfinished = tmp_path / ".postgres-unfinished-x"
    unfinished.mkdir()
    (unfinished / "PG_VERSION").write_text("18\n")
    server = make_postgres(tmp_path / "postgres")
    server.prepare()
    assert not unfinished.exists()
    with running(server):
        assert count_databases(server) == 1


def assert_starts_beside(server: PostgreSQL, pid: int) -> None:
    """Assert that the server starts although its pid file names this process of another program or folder."""
    (server.data / "postmaster.pid").write_text(f"{pid}\n{server.data}\n0\n{server.port}\n")
    server.prepare()
    with running(server):
        assert count_databases(server) == 1


def test_a_pid_file_of_a_foreign_process_is_removed_and_the_process_survives(
    prepared: Path,
) -> None:
    foreign = subprocess.Popen(["sleep", "60"])
    try:
        server = make_postgres(prepared)
        assert_starts_beside(server, foreign.pid)
        assert foreign.poll() is None
    finally:
        foreign.kill()
        foreign.wait()


def test_a_pid_file_of_another_postgresql_is_removed(prepared: Path, tmp_path: Path) -> None:
    foreign = make_postgres(tmp_path / "postgres")
    foreign.prepare()
    with running(foreign) as other:
        server = make_postgres(prepared)
        assert_starts_beside(server, other.pid)
        assert count_databases(foreign) == 1


def test_postgres_starts_after_it_was_killed(prepared: Path) -> None:
    server = make_postgres(prepared)
    with running(server):
        pass  # leaving kills it with SIGKILL
    server.prepare()

    def started() -> bool:
        try:
            with running(server):
                return count_databases(server) == 1
        except AssertionError:
            return False  # not all of its children have ended yet

    assert wait_until(started, 20, step=0.5)


def test_a_folder_that_is_not_a_data_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "thesis.txt").write_text("x")
    with pytest.raises(LocalError, match="Move it away"):
        make_postgres(tmp_path / "postgres").prepare()
    assert (tmp_path / "postgres" / "thesis.txt").exists()


def test_data_of_a_version_that_is_not_installed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "PG_VERSION").write_text("9\n")
    with pytest.raises(ServerMissing, match="PostgreSQL 9"):
        binaries.postgres(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another account")
def test_root_without_namespaces_runs_postgres_as_another_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "unshare" else which(name))
    server = make_postgres(tmp_path / "postgres")
    try:
        assert server.account.user
        server.prepare()
        assert server.data.stat().st_uid != 0
        process = subprocess.Popen(
            server.command(), **server.account.identity(),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            assert wait_until(server.is_ready, 60)
            assert count_databases(server) == 1
        finally:
            process.kill()
            process.wait()
    finally:
        server.remove_foreign_data()


def test_redis_keeps_its_data_after_a_kill_and_requires_the_password(tmp_path: Path) -> None:
    server = Redis(tmp_path / "with space" / "redis", port=ports.pick(), password="one")
    server.prepare()
    with running(server), redis.Redis.from_url(server.url) as client:
        client.set("kept", "yes")
        client.execute_command("WAITAOF", 1, 0, 2000)
    assert not server.is_ready()
    server.prepare()
    with running(server), redis.Redis.from_url(server.url) as client:
        assert client.get("kept") == b"yes"
        with (
            redis.Redis.from_url(server.url.replace(":one@", ":two@")) as foreign,
            pytest.raises(redis.AuthenticationError),
        ):
            foreign.ping()


def test_a_redis_url_is_checked_before_anything_starts(tmp_path: Path) -> None:
    server = Redis(tmp_path / "redis", port=ports.pick(), password="one", throw_away=True)
    server.prepare()
    with running(server):
        assert answers(server.url)
        assert not answers(server.url.replace(":one@", ":two@"))
    assert not answers(server.url)
    assert not answers(f"unix://{tmp_path}/nothing.sock?db=0")
    assert not answers("redis://127.0.0.1:port/0")
