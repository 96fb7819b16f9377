"""Timeouts of all sessions of our database: statements, lock waits, idle transactions.

They are settings of the database itself, because PgBouncer in transaction mode does not keep a session's SET.
"""

from collections.abc import Mapping

import structlog
from django.db import ProgrammingError, connection, transaction

from generation.infra import database

log = structlog.get_logger(__name__)

LIMITS = {
    "statement_timeout": "2min",
    "lock_timeout": "1min",
    "idle_in_transaction_session_timeout": "5min",  # a suspended host would hold locks
}
NOT_PERMITTED = "42501"


def set_missing() -> list[str]:
    """Set those of LIMITS that the database lacks, and return their names. They apply to new sessions."""
    known = _known()
    names = [name for name in LIMITS if name not in known]
    _alter({name: LIMITS[name] for name in names})
    return names


def lift() -> None:
    """Remove our limits, since a migration of a large table may take longer. Reconnect afterwards."""
    known = _known()
    _alter({name: None for name, value in LIMITS.items() if known.get(name) == value})


def _known() -> dict[str, str]:
    """Return the settings of the database for all roles."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT unnest(setconfig) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase"
            " WHERE d.datname = current_database() AND s.setrole = 0"
        )
        return dict(row.split("=", 1) for (row,) in cursor.fetchall())


def _alter(values: Mapping[str, str | None]) -> None:
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            for name, value in values.items():
                # current_database(): a pooler may use another name.
                change = "RESET %%I" if value is None else "SET %%I = %%L"
                cursor.execute(
                    f"SELECT format('ALTER DATABASE %%I {change}', current_database(), %s, %s)",
                    [name, value],
                )
                cursor.execute(cursor.fetchone()[0])
    except ProgrammingError as error:
        if database.sqlstate(error) != NOT_PERMITTED:
            raise
        log.warning("session_limits_not_set", limits=sorted(values), error=str(error).strip())
