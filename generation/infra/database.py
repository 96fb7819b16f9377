"""Errors of PostgreSQL for which the server is at fault, and not the statement: the same one may succeed later."""

import re
from datetime import datetime

import django.db
from django.db import connection

# What no column of text holds: PostgreSQL stores no NUL, UTF-8 no lone surrogate.
UNSTORABLE = re.compile("[\0\ud800-\udfff]")
# Schema that holds the tables of before until a restoration (`project.maintenance`) has succeeded.
BEFORE_RESTORE = "before_restore"
# Classes and codes of SQLSTATE (appendix A of PostgreSQL's manual) that Django does not call operational.
READ_ONLY = "25006"
_AWAY = (
    READ_ONLY,  # read-only: a standby, or a failover under way
    "3D000",  # no such database: it is being restored
    "3F000",  # no such schema
    "42P01",  # no such table
    "42703",  # no such column
    "XX",  # internal error, damaged data
)


def is_away(error: BaseException | None) -> bool:
    """Return whether PostgreSQL cannot be reached, has no room, is read-only, or is being restored."""
    if isinstance(error, django.db.OperationalError | django.db.InterfaceError):
        return True  # connections, resources, timeouts, deadlocks, shutdowns
    if not isinstance(error, django.db.Error):
        return False
    return sqlstate(error).startswith(_AWAY)


def is_being_restored() -> bool:
    """Return whether a restoration of a backup is under way, or was interrupted and not repeated."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", [BEFORE_RESTORE])
        return cursor.fetchone() is not None


def now() -> datetime:
    """Return PostgreSQL's time, for comparisons with times that other hosts wrote."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement_timestamp()")
        return cursor.fetchone()[0]


def leave_read_only(error: BaseException) -> None:
    """Close the connection if it leads to a server that takes no writes: the next one may lead to the new primary."""
    if sqlstate(error) == READ_ONLY and not connection.in_atomic_block:
        connection.close()


def sqlstate(error: BaseException) -> str:
    """Return the code of PostgreSQL's answer, empty without one."""
    return getattr(error.__cause__, "pgcode", None) or ""
