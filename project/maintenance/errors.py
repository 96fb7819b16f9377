"""Errors of the maintenance commands. Their messages are shown at the terminal."""


class MaintenanceError(Exception):
    """The command failed."""


class ProgramMissing(MaintenanceError):
    """No installed PostgreSQL program matches the server's version."""


class ArchiveInvalid(MaintenanceError):
    """The archive is damaged, incomplete, or not a backup."""


class NotEmpty(MaintenanceError):
    """The database has tables, or processes use it."""
