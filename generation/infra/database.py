"""Errors that are the PostgreSQL server's fault: the same statement may succeed later."""

import re
from datetime import datetime

import django.db
from django.db import connection

# Characters that cannot be stored: PostgreSQL refuses NUL, UTF-8 cannot encode lone surrogates.
UNSTORABLE = re.compile("[\0\ud800-\udfff]")
# Schema with the previous tables until a restoration (`project.maintenance`) has succeeded.
BEFORE_RESTORE = "before_restore"
# SQLSTATE classes and codes (PostgreSQL's manual, appendix A) that do not raise Django's OperationalError.
READ_ONLY = "25006"
_AWAY = (
    READ_ONLY,  # a standby, or a failover in progress
    "3D000",  # no such database: it is being restored
    "3F000",  # no such schema
    "42P01",  # no such table
    "42703",  # no such column
    "XX",  # internal error, damaged data
)


def is_away(error: BaseException | None) -> bool:
    """Return whether PostgreSQL is unreachable, out of space, read-only, or being restored."""
    if isinstance(error, django.db.OperationalError | django.db.InterfaceError):
        return True  # connections, resources, timeouts, deadlocks, shutdowns
    if not isinstance(error, django.db.Error):
        return False
    return sqlstate(error).startswith(_AWAY)


def is_being_restored() -> bool:
    """Return whether a restoration of a backup is in progress, or was interrupted and not repeated."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", [BEFORE_RESTORE])
        return cursor.fetchone() is not None


def now() -> datetime:
    """Return PostgreSQL's current time, for comparison with stored times of other hosts."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement_timestamp()")
        return cursor.fetchone()[0]


def leave_read_only(error: BaseException) -> None:
    """Close the connection after a read-only error: the next one may reach the new primary."""
    if sqlstate(error) == READ_ONLY and not connection.in_atomic_block:
        connection.close()


def sqlstate(error: BaseException) -> str:
    """Return the SQLSTATE of the error, or ""."""
    return getattr(error.__cause__, "pgcode", None) or ""
