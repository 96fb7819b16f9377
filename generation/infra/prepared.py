"""Statements whose plan PostgreSQL keeps: planning takes longer than running them. Knows no model.

Each connection prepares a statement when it first needs it, so a pooler between us and PostgreSQL has to keep a
client's session, as it must for the locks of beat.
"""

import hashlib
import re
import weakref
from functools import cached_property
from typing import Any

from django.db import connection

_NAME = re.compile(r"%\((\w+)\)s")


# Titles of statements by connection of psycopg2, which one thread uses.
_prepared: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()


# Of a call that is a transaction of its own: it is seen by everybody at once, and written to the disk a moment later.
EARLY = "SET LOCAL synchronous_commit TO off;"


class Statement:
    """Use it as `cursor.execute(found.call(), {"slug": "mug"})`.

    sql: with %(name)s for what changes, cast where PostgreSQL could not tell its type. settings: "SET LOCAL …", sent
    with each call; outside of a transaction they hold for the call alone.
    """

    def __init__(self, sql: str, *, settings: str = "") -> None:
        self.sql = sql
        self._settings = settings

    def call(self) -> str:
        """SQL with the same names, good for the connection as it is now."""
        # Here and not when the cursor is opened: a broken connection is replaced first, and the new one knows nothing.
        connection.close_if_health_check_failed()
        connection.ensure_connection()
        prepared = _prepared.setdefault(connection.connection, set())
        if self._title not in prepared:
            # Past Django: it is no query of whoever counts or logs them.
            with connection.wrap_database_errors, connection.connection.cursor() as cursor:
                cursor.execute(self._prepare)
            prepared.add(self._title)
        return self._execute

    @cached_property
    def _names(self) -> list[str]:
        return list(dict.fromkeys(_NAME.findall(self.sql)))

    @cached_property
    def _title(self) -> str:
        return f"retort_{hashlib.sha256(self.sql.encode()).hexdigest()[:16]}"

    @cached_property
    def _prepare(self) -> str:
        places = {name: f"${place}" for place, name in enumerate(self._names, start=1)}
        # What stays may hold a per cent sign, written twice.
        return f"PREPARE {self._title} AS {self.sql % places}"

    @cached_property
    def _execute(self) -> str:
        arguments = ", ".join(f"%({name})s" for name in self._names)
        return f"{self._settings} EXECUTE {self._title}{f'({arguments})' if arguments else ''}"
