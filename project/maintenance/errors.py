"""Errors of the operators' commands. Their messages are for the person at the terminal."""


class MaintenanceError(Exception):
    """The command cannot do its work."""


class ProgramMissing(MaintenanceError):
    """No installed program of PostgreSQL fits the server."""


class ArchiveInvalid(MaintenanceError):
    """The archive is damaged, incomplete, or of something else."""


class NotEmpty(MaintenanceError):
    """The database has tables, or processes use it."""
