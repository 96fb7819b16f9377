"""The template of the test databases: the first process of a run migrates it, the others copy it in a second."""

import fcntl
from pathlib import Path

from django.db import connection


class Template:
    """A copy of the first process's test database. A lock makes the other processes wait until it is complete."""

    def __init__(self, run: str, folder: Path) -> None:
        """run: identifier of the test run. folder: shared by its processes."""
        self._name = f"test_template_{run}"
        self._lock = (folder / "template.lock").open("w")
        self._is_first = False

    def take(self) -> None:
        """Wait for the lock. If the template exists, set Django's test settings so that it copies it."""
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        with connection._nodb_cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_database WHERE datname = %s", [self._name])
            self._is_first = cursor.fetchone()[0] == 0
        if not self._is_first:
            connection.settings_dict["TEST"] |= {"TEMPLATE": self._name, "MIGRATE": False}

    def give(self) -> None:
        """Make the template from the new test database, if this process is the first; release the lock."""
        if self._is_first:
            source = connection.settings_dict["NAME"]
            connection.close()
            self._execute(f'CREATE DATABASE "{self._name}" TEMPLATE "{source}"')
        fcntl.flock(self._lock, fcntl.LOCK_UN)

    def drop(self) -> None:
        """Drop the template, if this process made it; wait until no other process copies it."""
        if self._is_first:
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            self._execute(f'DROP DATABASE IF EXISTS "{self._name}"')
        self._lock.close()

    def _execute(self, statement: str) -> None:
        with connection._nodb_cursor() as cursor:
            cursor.execute(statement)
